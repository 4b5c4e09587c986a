"""Writing a checkpoint: aside, proved by a manifest, on the disk, and only then under its name."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.checkpoints import folders, manifest
from llm_finetune.errors import OutputError

# Configuration, manifest and the file system's own needs, beside the tensors.
SLACK_BYTES = 1_000_000


@contextmanager
def written_whole(path: Path, step: int, world_size: int, tensor_bytes: int) -> Iterator[Path]:
    """Gives a folder to write the checkpoint's parts into; they are there under its name, or not at all.

    Args:
        path: the output folder.
        tensor_bytes: what the parts will take.

    Raises:
        OutputError: they do not fit on the disk, or cannot be written; earlier checkpoints stay as they are.
    """
    folder = path / folders.name_of(step)
    aside = folders.aside_of(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        if shutil.disk_usage(aside).free < tensor_bytes + SLACK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield aside
        manifest.write(aside, step, world_size)
        _to_disk(aside)
        _take_place(aside, folder)
    except Exception as error:
        number = _errno(error)
        if number is None:
            raise
        raise OutputError(_told(path, folder, number, tensor_bytes + SLACK_BYTES)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _take_place(aside: Path, folder: Path) -> None:
    """The same step may have been kept before, with less of what followed it."""
    waiting = folders.replaced(folder)
    if folder.exists():
        os.replace(folder, waiting)
    os.replace(aside, folder)
    _sync(folder.parent)
    shutil.rmtree(waiting, ignore_errors=True)


def _to_disk(folder: Path) -> None:
    """A network file system may tell only now that it has no room."""
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _errno(error: Exception) -> int | None:
    """The system's number for what went wrong; safetensors has it in its words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _told(path: Path, folder: Path, number: int, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(path).free / 1e6:,.1f} MB free"
    except OSError:
        free = "free space unknown"
    kept = folders.steps(path)
    last = f"{folders.name_of(kept[0])} is whole" if kept else "no checkpoint is there yet"
    remedy = {
        errno.ENOSPC: "make room, or lower distributed.train.saveTotalLimit",
        errno.EDQUOT: "have the quota raised, or lower distributed.train.saveTotalLimit",
        errno.EROFS: "have the volume mounted for writing",
        errno.ESTALE: "have the network volume mounted anew",
    }.get(number, "see to the volume")
    return (
        f"{folder}: cannot be written: {os.strerror(number)} ({needed / 1e6:,.1f} MB needed, {free}); "
        f"{last}; {remedy}, and start the same command again: it goes on from there"
    )
