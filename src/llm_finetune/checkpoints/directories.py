"""The checkpoints of an output folder: the newest whole one, and what becomes of the others."""

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
    """The folder of a step's checkpoint."""
    return f"checkpoint-{step}"


def steps(path: Path) -> list[int]:
    """The steps whose checkpoints were finished, the newest first; their content is not looked at."""
    return sorted((step for step, folder in _found(path) if manifest.is_there(folder)), reverse=True)


def newest_whole(path: Path, unfit: Callable[[Path], str | None] = lambda folder: None) -> str | None:
    """The name of the newest checkpoint that proves whole; corrupt ones are set aside.

    The log says what is wrong with each.

    Args:
        unfit: what is wrong with a checkpoint whose files are as they were written.
    """
    mend(path)
    for _, folder in sorted(_found(path), reverse=True):
        wrong = manifest.problem(folder) or unfit(folder)
        if wrong is None:
            return folder.name
        aside = folder.with_name(CORRUPT + folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        log.warning("%s is broken: %s; it is set aside as %s", folder, wrong, aside.name)
    return None


def rotate(path: Path, limit: int | None, best: int | None = None) -> None:
    """Deletes the oldest checkpoints above `limit`; never the newest that was finished, nor the best.

    Args:
        best: step of the checkpoint with the lowest validation loss, where that counts.
    """
    finished = steps(path)
    for step in finished[limit or len(finished) :]:
        if step != best:
            # Renamed first: half deleted, it must not look like one that broke.
            going = atomic.aside_of(path / name_of(step))
            os.replace(path / name_of(step), going)
            shutil.rmtree(going, ignore_errors=True)


def delete_corrupt(path: Path) -> None:
    """Deletes what was set aside."""
    for prefix in (CORRUPT, FORMER_CORRUPT):
        for folder in path.glob(f"{prefix}checkpoint-*"):
            shutil.rmtree(folder, ignore_errors=True)


def mend(path: Path) -> None:
    """Ends what a kill interrupted."""
    atomic.clear(path, ["checkpoint-*"])


def _found(path: Path) -> list[tuple[int, Path]]:
    folders = [
        (re.fullmatch(r"checkpoint-(\d+)", folder.name), folder) for folder in path.glob("checkpoint-*")
    ]
    return [(int(match[1]), folder) for match, folder in folders if match and folder.is_dir()]
