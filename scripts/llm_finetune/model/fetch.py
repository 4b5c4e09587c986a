"""Where a base model's files come from: a folder that is there, or the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from llm_finetune.errors import ModelError
from llm_finetune.model.download import download

# Small files first: with these alone, settings and data can be checked before gigabytes are fetched.
DESCRIPTION_FILES = ["*.json", "*.jinja", "*.model", "tokenizer*", "vocab*", "merges.txt"]
WEIGHT_FILES = ["*.safetensors"]
CODE_FILES = ["*.py"]


SETTING = "distributed.modelNameOrPath"


def fetch(
    name_or_path: str, revision: str | None, *, weights: bool, code: bool, named_in: str = SETTING
) -> Path:
    """The local folder that holds the model's files; downloads the files that are missing.

    Args:
        name_or_path: a folder, or the name of a model on the Hub ("owner/name").
        revision: branch, tag or commit on the Hub.
        weights: also the weights; without them the description and the tokenizer alone.
        code: also the repository's Python files, which only a user who trusts them asks for.
        named_in: where the user finds that name, for errors.

    Raises:
        ModelError: the folder holds no model, or the Hub does not hand it out; says what to do.
        OutputError: a download has no room, or cannot be written.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return _checked(folder, weights)
    if looks_like_a_path(name_or_path):
        raise ModelError(
            f"{named_in}: no folder {name_or_path}; expected a folder with config.json, "
            "or the name of a model on the Hugging Face Hub (owner/name)"
        )
    patterns = DESCRIPTION_FILES + (WEIGHT_FILES if weights else []) + (CODE_FILES if code else [])
    return _checked(download(name_or_path, revision, patterns, named_in), weights)


def looks_like_a_path(name: str) -> bool:
    """Whether a name can only mean a folder: the Hub's have one slash at most, and no leading dot."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _checked(folder: Path, weights: bool) -> Path:
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = " (an adapter is not a base model: name its base)"
        raise ModelError(f"{folder}: no config.json in this model folder{hint}; it holds {found}")
    for file in sorted(folder.iterdir()):
        if file.is_symlink() and not file.exists():
            raise ModelError(f"{file}: a link that leads nowhere; download or copy the model again")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        why = "only pickled weights, which could run code when they are read" if pickled else "no weights"
        raise ModelError(
            f"{folder}: {why}; expected *.safetensors"
            + ("; choose a revision that has them, or convert the model once" if pickled else "")
        )
    return folder
