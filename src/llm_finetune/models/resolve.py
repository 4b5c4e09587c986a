"""Where a base model's files come from: a folder that is there, or the Hugging Face Hub."""

from __future__ import annotations

import json
from glob import escape
from pathlib import Path

from llm_finetune.errors import ModelError
from llm_finetune.models.hub_download import download
from llm_finetune.storage.symlinks import leading_out, leads_out

# Small files first: with these alone, settings and data can be checked before gigabytes are fetched.
DESCRIPTION_FILES = ["*.json", "*.jinja", "*.model", "tokenizer*", "vocab*", "merges.txt"]
INDEX = "model.safetensors.index.json"
# Where there is an index, the files that it names. Others are the same weights once more, for other tools.
WEIGHT_FILES = ["model.safetensors"]
CODE_FILES = ["*.py"]

SETTING = "distributed.modelNameOrPath"


def fetch(
    name_or_path: str, revision: str | None, *, weights: bool, code: bool, named_in: str = SETTING
) -> Path:
    """The local folder that holds the model's files; downloads the files that are missing.

    Args:
        name_or_path: a folder, or the name of a model on the Hub ("owner/name").
        revision: branch, tag or commit on the Hub.
        weights: also the weights; without them the description and the tokenizer alone are downloaded.
        code: also the repository's Python files, which only a user who trusts them asks for.
        named_in: where the user finds that name, for errors.

    Raises:
        ModelError: the folder holds no model, or the Hub does not hand it out; says what to do.
        OutputError: a download has no room, or cannot be written.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return _checked(folder, weights=True)
    if looks_like_a_path(name_or_path):
        raise ModelError(
            f"{named_in}: no folder {name_or_path}; expected a folder with config.json, "
            "or the name of a model on the Hugging Face Hub (owner/name)"
        )
    patterns = DESCRIPTION_FILES + (CODE_FILES if code else [])
    folder = _checked(download(name_or_path, revision, patterns, named_in), weights=False)
    if not weights:
        return folder
    # Of the commit that the cache names its folder by: a branch may have moved in the meantime.
    named = [escape(file) for file in weight_files(folder)]
    return _checked(download(name_or_path, folder.name, named, named_in), weights=True)


def has_weights(folder: Path) -> bool:
    """Whether the folder holds weights that are read."""
    return any(folder.glob("*.safetensors"))


def looks_like_a_path(name: str) -> bool:
    """Whether a name can only mean a folder: the Hub's have one slash at most, and no leading dot."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def check_links(folder: Path) -> None:
    """Raises ModelError where files of a model folder are links to what is none of the model's."""
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not file.exists():
            raise ModelError(f"{file}: a link that leads nowhere; download or copy the model again")
    for file, target in leading_out(folder):
        raise ModelError(
            f"{file}: a link that leads out of the model's folder, to {target}, which would go into what is "
            "trained and published; copy that file here in its place"
        )


def read_index(index: Path) -> dict[str, str]:
    """For each weight the name of its file. Raises ModelError where the index does not say so."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(file, str) for file in weight_map.values()):
            raise TypeError("a file's name that is no text")
        for file in {*weight_map.values()}:
            if leads_out(index.parent / file, index.parent):
                raise ValueError(f"{file}, which is no file of this folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index}: found {error!r}, expected weight_map, which names the file of each weight: fetch the "
            "model again"
        ) from error
    return dict(weight_map)


def weight_files(folder: Path) -> list[str]:
    """The names of the files that hold the weights. Raises ModelError where the index does not say so."""
    if (folder / INDEX).is_file():
        return sorted(set(read_index(folder / INDEX).values()))
    return WEIGHT_FILES


def _checked(folder: Path, weights: bool) -> Path:
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = " (an adapter is not a base model: name its base)"
        raise ModelError(f"{folder}: no config.json in this model folder{hint}; it holds {found}")
    check_links(folder)
    if weights:
        _check_weight_files(folder)
    return folder


def _check_weight_files(folder: Path) -> None:
    files = weight_files(folder)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and (folder / INDEX).is_file():
        raise ModelError(
            f"{folder}: no file {missing[0]}, which {INDEX} names: the download is incomplete; fetch the "
            "model again"
        )
    if missing:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        why = "only pickled weights, which could run code when they are read" if pickled else "no weights"
        raise ModelError(
            f"{folder}: {why}; expected {missing[0]}, or {INDEX} and the files that it names"
            + ("; choose a revision that has them, or convert the model once" if pickled else "")
        )
    for single in WEIGHT_FILES:
        if single not in files and (folder / single).is_file():
            raise ModelError(
                f"{folder}: both {single} and {INDEX}, which names other files; remove the wrong one"
            )
