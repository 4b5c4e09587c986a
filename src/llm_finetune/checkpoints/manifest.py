"""The manifest of a checkpoint: name, size and digest of each file. Written last, it marks it as complete."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llm_finetune.storage.json_files import read_json, write_json

NAME = "manifest.json"


def write(folder: Path, step: int, world_size: int) -> None:
    """Describes all files of the directory, which counts as complete from now on.

    Args:
        step: optimizer steps done.
        world_size: number of ranks that did them.
    """
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": _digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_json(folder / NAME, {"step": step, "world_size": world_size, "files": files})


def is_there(folder: Path) -> bool:
    """Whether the checkpoint was finished; `problem` verifies its content."""
    return (folder / NAME).is_file()


def problem(folder: Path) -> str | None:
    """Why the checkpoint is not intact: which file, what was found and what was expected."""
    if not is_there(folder):
        return f"no {NAME}: it was never finished"
    try:
        files = (read_json(folder / NAME) or {})["files"]
        described = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{NAME} cannot be read ({error!r})"
    if not described:
        return f"{NAME} names no files"
    others = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    for name in sorted(others - described.keys() - {NAME}):
        if not Path(name).name.startswith("."):  # from a file system or file manager; no library reads it
            return f"{name}: not in {NAME}"
    for name, (size, digest) in described.items():
        if wrong := _wrong(folder / name, size, digest):
            return f"{name}: {wrong}"
    return None


def _wrong(file: Path, size: int, digest: str) -> str | None:
    try:
        found: Any = file.stat().st_size
        if found != size:
            return f"{found:,} bytes found, {size:,} expected"
        found = _digest(file)
    except FileNotFoundError:
        return f"missing, {size:,} bytes expected"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == digest else f"sha256 {found[:12]} found, {digest[:12]} expected"


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
