"""The checkpoint directories in an output directory: finding the newest intact one, rotation, removal."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from llm_finetune.checkpoints import manifest
from llm_finetune.storage import atomic

log = logging.getLogger(__name__)

CORRUPT = "corrupt-"
FORMER_CORRUPT = "broken-"  # of earlier versions


def name_of(step: int) -> str:
    """The directory name of a step's checkpoint."""
    return f"checkpoint-{step}"


def steps(path: Path) -> list[int]:
    """The steps of all finished checkpoints, newest first, without verifying their content."""
    return sorted((step for step, folder in _found(path) if manifest.is_there(folder)), reverse=True)


def newest_whole(path: Path, unfit: Callable[[Path], str | None] = lambda folder: None) -> str | None:
    """The name of the newest intact checkpoint; corrupt ones are renamed, and logged with the reason.

    Args:
        unfit: returns what else is wrong with a checkpoint whose files are as they were written.
    """
    remove_partial(path)
    for _, folder in sorted(_found(path), reverse=True):
        wrong = manifest.problem(folder) or unfit(folder)
        if wrong is None:
            return folder.name
        aside = folder.with_name(CORRUPT + folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        log.warning("%s is corrupt: %s; renamed to %s", folder, wrong, aside.name)
    return None


def rotate(path: Path, limit: int | None, best: int | None = None) -> None:
    """Deletes the oldest checkpoints beyond `limit`, but never the newest finished one nor the best.

    Args:
        best: step of the checkpoint with the lowest validation loss, if it is to be loaded at the end.
    """
    finished = steps(path)
    for step in finished[limit or len(finished) :]:
        if step != best:
            # Renamed first, so that a half-deleted one does not look corrupt.
            deleted = atomic.aside_of(path / name_of(step))
            os.replace(path / name_of(step), deleted)
            shutil.rmtree(deleted, ignore_errors=True)


def delete_corrupt(path: Path) -> None:
    """Deletes the checkpoints that were renamed as corrupt."""
    for prefix in (CORRUPT, FORMER_CORRUPT):
        for folder in path.glob(f"{prefix}checkpoint-*"):
            shutil.rmtree(folder, ignore_errors=True)


def remove_partial(path: Path) -> None:
    """Completes or removes what a killed process left under temporary names."""
    atomic.clear(path, ["checkpoint-*"])


def _found(path: Path) -> list[tuple[int, Path]]:
    folders = [
        (re.fullmatch(r"checkpoint-(\d+)", folder.name), folder) for folder in path.glob("checkpoint-*")
    ]
    return [(int(match[1]), folder) for match, folder in folders if match and folder.is_dir()]
