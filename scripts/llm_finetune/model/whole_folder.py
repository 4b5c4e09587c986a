"""A model folder that appears under its name whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.errors import OutputError
from llm_finetune.volume import writing

# Beside the weights: what a model needs to be asked and answered.
COPIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    "prompt.json",
    "*.py",
)


@contextmanager
def whole_folder(folder: Path, size_bytes: int, replaces: str | None = None) -> Iterator[Path]:
    """Gives a folder aside to write into; once the block is done it takes the place of `folder`.

    Args:
        size_bytes: about what will be written.
        replaces: a file that only folders of the same kind hold; one that holds it gives way. None: `folder`
            must be empty or absent.

    Raises:
        OutputError: `folder` holds something else, or cannot be written.
    """
    check_replaceable(folder, replaces)
    folder = folder.resolve()  # what a link leads to is replaced, not the link
    aside, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    try:
        shutil.rmtree(aside, ignore_errors=True)  # makes room where a kill left it
        with writing(folder, size_bytes, lambda: "the model that it is made from is kept"):
            aside.mkdir(parents=True)
            yield aside
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.replace(folder, old)
            os.replace(aside, folder)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_replaceable(folder: Path, replaces: str | None = None) -> None:
    """Raises OutputError where `whole_folder` would not replace what is there, or could not write."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    held = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    if held and not (replaces and replaces in held):
        raise OutputError(f"{folder}: already holds {held[0]}; name a folder that is empty or not there yet")
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    try:
        # Permissions alone do not tell: the file system may be read-only or full.
        with tempfile.NamedTemporaryFile(dir=there, prefix=".writable-"):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written, since {there} cannot ({error.strerror})") from error


def copy_companions(folders: list[Path], output: Path) -> None:
    """Copies tokenizer, chat template, generation settings and the like; a later folder's files win."""
    for folder in folders:
        for pattern in COPIED:
            for file in folder.glob(pattern):
                if file.is_file():
                    shutil.copyfile(file, output / file.name)
