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
    """Whether a name in a folder stands for a file elsewhere."""
    target = Path(os.path.realpath(file))
    return not any(target.is_relative_to(home) for home in homes(folder))


def homes(folder: Path) -> list[Path]:
    """Where a folder's links may lead.

    Into the folder itself, as Kubernetes lays them; the Hub's cache keeps the files of all versions in one
    folder, `blobs`, beside its `snapshots`.
    """
    real = Path(os.path.realpath(folder))
    return [real, *(parent.parent / "blobs" for parent in real.parents if parent.name == "snapshots")]
