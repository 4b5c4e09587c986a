"""The weights of a checkpoint: files as transformers and peft write them, and a digest of each weight.

The files use the tensor names of the Hub, so that any checkpoint is a model by itself. These can differ from
the names in the model: GPT-NeoX names its head otherwise, and experts that are separate in the files are one
tensor in the model. So transformers and peft read the files back, and digests by the names in the model
verify each weight.
"""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from llm_finetune.errors import OutputError
from llm_finetune.models.adapters import WEIGHTS
from llm_finetune.models.loading import read_weights
from llm_finetune.models.saving import save_weights
from llm_finetune.storage.json_files import write_json

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

NAME = "weights.json"


def save(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Writes the trained weights: all of them, or those of the adapter."""
    save_weights(model, folder)
    write_json(folder / NAME, {"sha256": digests(model)})


def load(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Loads the weights of a checkpoint into the model and verifies each of them.

    Raises:
        OutputError: a weight is missing, left over or not read back as it was written.
    """
    from peft import PeftModel

    expected = read_digests(folder)
    if isinstance(model, PeftModel):
        _load_adapter(model, folder)
    else:
        _load_all(model, folder)
    if expected is None:
        return  # of an earlier version that wrote no digests: `compatibility` has compared the names
    found = digests(model)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise OutputError(f"{folder}: {name} is not read back as it was written")


def trained_weights(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint of the model contains, by their names in the model."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return dict(model.state_dict())


def digests(model: PreTrainedModel | PeftModel) -> dict[str, str]:
    """SHA-256 of format, shape and content of each weight, by its name in the model."""
    return {name: _digest(weight) for name, weight in trained_weights(model).items()}


def read_digests(folder: Path) -> dict[str, str] | None:
    """The digests stored in the checkpoint; None if an earlier version wrote it without any.

    Raises:
        ValueError: the file is malformed.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return {str(name): str(digest) for name, digest in content["sha256"].items()}


def _load_all(model: PreTrainedModel, folder: Path) -> None:
    config = deepcopy(model.config)  # computes as this run does, whatever the checkpoint's configuration says
    found = read_weights(type(model), folder, is_exact=True, config=config, dtype=model.dtype).state_dict()
    _copy(found, model.state_dict(), folder)


def _load_adapter(model: PeftModel, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    _copy(load_file(folder / WEIGHTS), get_peft_model_state_dict(model, save_embedding_layers=False), folder)


@torch.no_grad()
def _copy(found: dict[str, torch.Tensor], into: dict[str, torch.Tensor], folder: Path) -> None:
    """Copies all weights, or raises where one is missing, left over or of another kind."""
    if strange := sorted(found.keys() ^ into.keys()):
        where = "the model" if strange[0] in into else "the checkpoint"
        raise OutputError(f"{folder}: holds other weights than the model: {strange[0]} is in {where} alone")
    for name, weight in into.items():
        if (weight.shape, weight.dtype) != (found[name].shape, found[name].dtype):
            raise OutputError(
                f"{folder}: {name} is {_kind(found[name])} there and {_kind(weight)} in the model"
            )
    for name, weight in into.items():
        weight.copy_(found.pop(name))


def _kind(weight: torch.Tensor) -> str:
    return f"{str(weight.dtype).removeprefix('torch.')} of shape {tuple(weight.shape)}"


def _digest(weight: torch.Tensor) -> str:
    content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(f"{_kind(weight)}\n".encode())
    digest.update(content.numpy().data)
    return digest.hexdigest()
