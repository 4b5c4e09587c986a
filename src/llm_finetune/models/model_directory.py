"""A model as a person has it, in a folder: plain, an adapter with its base named inside, or quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llm_finetune.errors import ModelError
from llm_finetune.models.adapter_config import read_config
from llm_finetune.models.resolve import check_links, fetch

Kind = Literal["plain", "adapter", "quantized"]
ADAPTER_CONFIG = "adapter_config.json"
QUANTIZATION = "quantization.json"


def kind_of(folder: Path) -> Kind:
    """What the folder holds, by its files; nothing heavy is loaded.

    Raises:
        ModelError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected one with a model or an adapter in it")
    check_links(folder)
    if (folder / QUANTIZATION).is_file():
        return "quantized"
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (folder / "config.json").is_file():
        return "plain"
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise ModelError(
        f"{folder}: no model in this folder; expected config.json, {ADAPTER_CONFIG} or {QUANTIZATION}, "
        f"found {found}"
    )


def base_of(folder: Path, trust_remote_code: bool) -> Path:
    """The folder of the base model that an adapter names; downloads what is missing.

    Raises:
        ModelError: adapter_config.json is broken, or its base is not there.
    """
    config = read_config(folder)
    named_in = f"{folder / ADAPTER_CONFIG}, base_model_name_or_path"
    name, revision = config.base_model_name_or_path, config.revision
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{named_in}: found {name!r}; write the base model's folder there, or its name on the Hub"
        )
    if not isinstance(revision, str | None):
        raise ModelError(
            f"{folder / ADAPTER_CONFIG}, revision: found {revision!r}, expected a version's name, or null"
        )
    return fetch(name, revision, weights=True, code=trust_remote_code, named_in=named_in)
