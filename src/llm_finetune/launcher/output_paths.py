"""The folders that the settings have written: where links lead, and that it is on the volume."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from llm_finetune.config import Settings
from llm_finetune.errors import OutputError, SettingsError


def resolved(settings: Settings) -> Settings:
    """The settings with the folders that links in their paths lead to now.

    So what is locked is what is written, even if a link changes meanwhile. A path without links is
    unchanged.

    Raises:
        OutputError: a link leads nowhere but round in a circle.
    """
    train = {"output_dir": _resolved(settings.train.output_dir, "distributed.train.outputDir")}
    quantize = {"output_dir": _resolved(settings.quantize.output_dir, "distributed.quantize.outputDir")}
    return settings.model_copy(
        update={
            "train": settings.train.model_copy(update=train),
            "quantize": settings.quantize.model_copy(update=quantize),
        }
    )


def _resolved(path: str, key: str) -> str:
    try:
        os.stat(path)
    except OSError as error:  # most folders are not there yet
        if error.errno == errno.ELOOP:
            raise OutputError(f"{key}: {path}: links lead round in a circle; name another folder") from error
    real = os.path.realpath(path)
    return path if real == os.path.abspath(path) else real


def check_written(settings: Settings, volume: Path) -> None:
    """Raises SettingsError where the job would write outside the volume.

    The chart has looked at the paths as they are written; where a link leads only the pod knows.
    """
    written = {"distributed.train.outputDir": settings.train.output_dir}
    if settings.do_quantize:
        written["distributed.quantize.outputDir"] = settings.quantize.output_dir
    root = volume.resolve()
    problems = [
        f"{key}: found {path}, which leads to {real}, outside the volume at {volume}; "
        f"write a folder below {volume}"
        for key, path in written.items()
        if not Path(real := os.path.realpath(path)).is_relative_to(root)
    ]
    if problems:
        raise SettingsError(problems)
