"""Paths out of the settings stay on the volume, links on it followed."""

from __future__ import annotations

from pathlib import Path

from llm_finetune.errors import SettingsError
from llm_finetune.settings import Settings


def check_written(settings: Settings, volume: Path) -> None:
    """Raises SettingsError where the job would write outside the volume.

    The chart has looked at the paths as they are written; where a link leads only the pod knows.
    """
    written = {"distributed.train.outputDir": settings.train.output_dir}
    if settings.do_quantize:
        written["distributed.quantize.outputDir"] = settings.quantize.output_dir
    root = volume.resolve()
    problems = [
        f"{key}: found {path}, which leads to {Path(path).resolve()}, outside the volume at {volume}; "
        f"write a folder below {volume}"
        for key, path in written.items()
        if not Path(path).resolve().is_relative_to(root)
    ]
    if problems:
        raise SettingsError(problems)
