"""What killed processes left half-written; it would fill the disk, start after start."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

AFTER_SECONDS = 900  # one that lives writes all the time


def remove_abandoned(left: Iterable[Path]) -> None:
    """Removes those of the files and folders in which nothing was written for a quarter of an hour."""
    for path in left:
        with suppress(OSError):  # removed meanwhile; what is to be written reports a volume that cannot be
            now = _now(path.parent)
            newest = max(one.stat().st_mtime for one in [path, *path.rglob("*")])
            if now - newest <= AFTER_SECONDS:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _now(folder: Path) -> float:
    """By the clock of the file system, which on a network is another machine's."""
    with tempfile.TemporaryFile(dir=folder) as new:
        return os.fstat(new.fileno()).st_mtime
