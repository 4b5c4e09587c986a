"""What cannot be written: one error with the path, what was wrong, the size needed, and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.errors import OutputError

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "have the quota raised",
    errno.EROFS: "have the volume mounted for writing",
    errno.ESTALE: "have the network volume mounted anew",
    errno.EACCES: "name a folder that this user may write",
    errno.EPERM: "name a folder that this user may write",
}


@contextmanager
def writing(
    path: Path, needed_bytes: int = 0, kept: Callable[[], str] = lambda: "stages that are done are kept"
) -> Iterator[None]:
    """Around what writes `path`, or files in it.

    Args:
        needed_bytes: what it will take, where that is known; without that much room nothing is begun.
        kept: tells what is not lost.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        free = free_bytes(path)
        if free is not None and free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except Exception as error:
        number = _errno(error)
        if number is None:
            raise
        needed = f"{needed_bytes / 1e6:,.1f} MB needed, " if needed_bytes else ""
        raise OutputError(
            f"{path}: cannot be written: {os.strerror(number)} ({needed}{_free(path)}); {kept()}; "
            f"{REMEDIES.get(number, 'see to the volume')}, and start the same command again: it goes on from "
            "there"
        ) from error


def free_bytes(path: Path) -> int | None:
    """Room on the volume where `path` is, or will be; None where the volume does not tell."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return usage.free if usage.total else None


def _errno(error: Exception) -> int | None:
    """The system's number for what went wrong; safetensors has it in its words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _free(path: Path) -> str:
    try:
        free = free_bytes(path)
    except OSError:
        free = None
    return "free space unknown" if free is None else f"{free / 1e6:,.1f} MB free"
