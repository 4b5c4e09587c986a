"""Links in a folder that somebody else has filled, and that may lead out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def leading_out(folder: Path) -> Iterator[tuple[Path, str]]:
    """The folder's files that lie elsewhere, and where they do."""
    for file in sorted(folder.iterdir()):
        if leads_out(file, folder) and not file.is_dir():
            yield file, os.path.realpath(file)


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a name in a folder stands for a file elsewhere.

    Links within the folder are as good as files: Kubernetes lays them so. The Hub's cache keeps the files of
    all versions in one folder, `blobs`, beside its `snapshots`.
    """
    real = Path(os.path.realpath(folder))
    blobs = [parent.parent / "blobs" for parent in real.parents if parent.name == "snapshots"]
    target = Path(os.path.realpath(file))
    return not any(target.is_relative_to(root) for root in (real, *blobs))
