"""A model folder that appears under its name whole, or not at all."""

from __future__ import annotations

import copy
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.errors import OutputError
from llm_finetune.storage import atomic
from llm_finetune.storage.directory_lock import locked_beside
from llm_finetune.storage.errors import check_writable, mount_points, writing

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMER_NAMES = {"prompt.json": "prompt_config.json"}  # of earlier versions; a copy has the name of today
# Beside the weights: what a model needs to be asked and answered.
COPIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    *FORMER_NAMES,
    "prompt_config.json",
)
CODE = "*.py"


@contextmanager
def atomic_directory(folder: Path, size_bytes: int, replaces: str | None = None) -> Iterator[Path]:
    """Gives a folder aside to write into; once the block is done it takes the place of `folder`.

    Two at once would each undo what the other did: the second is refused.

    Args:
        size_bytes: about what will be written.
        replaces: a file that only folders of the same kind hold; one with it is replaced. None: `folder` must
            be empty or absent.

    Raises:
        OutputError: `folder` holds something else, or cannot be written.
        GroupError: another run replaces it right now.
    """
    folder = Path(os.path.realpath(folder))  # what a link leads to is replaced, not the link
    aside = atomic.aside_of(folder)
    with locked_beside(folder, 0, "the model's folder"):
        try:
            atomic.clear(folder.parent, [glob.escape(folder.name)])  # makes room where a kill left something
            check_replaceable(folder, replaces)  # which a kill may have put aside
            with writing(folder, size_bytes, lambda: "the source model is unchanged"):
                aside.mkdir()
                yield aside
                atomic.place(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def check_replaceable(folder: Path, replaces: str | None = None) -> None:
    """Raises OutputError where `atomic_directory` would not replace what is there, or could not write."""
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    held = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    if held and not (replaces and replaces in held):
        raise OutputError(f"{folder}: already holds {held[0]}; name a folder that is empty or not there yet")
    there = next(parent for parent in folder.parents if parent.exists())
    if within := [point for point in mount_points() if point.is_relative_to(folder)]:
        raise OutputError(
            f"{folder}: {within[0]} is a mount point, which no folder can take the place of once it is "
            f"whole; name a folder in it, such as {folder / 'model'}"
        )
    if folder.is_dir() and _is_guarded(folder, there):
        raise OutputError(
            f"{folder}: is another user's, in {there}, whose sticky bit lets no other user replace it; name "
            "another folder"
        )
    check_writable(folder, there)


def _is_guarded(folder: Path, parent: Path) -> bool:
    """Whether the sticky bit of its parent keeps this user from renaming the folder."""
    guards, me = parent.stat(), os.geteuid()
    return bool(guards.st_mode & stat.S_ISVTX) and me not in {0, guards.st_uid, folder.stat().st_uid}


def write_config(config: PretrainedConfig, output: Path, *, code: bool) -> None:
    """Writes config.json; it names Python files only where `copy_auxiliary_files` brings them."""
    config = copy.deepcopy(config)
    if not code and hasattr(config, "auto_map"):
        del config.auto_map
    config.save_pretrained(output)


def copy_auxiliary_files(folders: list[Path], output: Path, *, code: bool) -> None:
    """Copies tokenizer, chat template, generation settings and the like; a later folder's files win.

    Args:
        code: also Python files, which only users who trust them shall get.
    """
    for folder in folders:
        for pattern in (*COPIED, CODE) if code else COPIED:
            for file in folder.glob(pattern):
                if file.is_file():
                    shutil.copyfile(file, output / FORMER_NAMES.get(file.name, file.name))
