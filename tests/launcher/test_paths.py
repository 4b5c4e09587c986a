"""What a job writes in a pod stays on the volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_finetune.errors import SettingsError
from llm_finetune.launcher.paths import check_written
from llm_finetune.settings import Settings, load


def writing_to(output: Path, quantized: Path, *, quantize: bool = True) -> Settings:
    return load(
        [],
        [],
        [f"distributed.doQuantize={str(quantize).lower()}"],
        [f"distributed.train.outputDir={output}", f"distributed.quantize.outputDir={quantized}"],
    ).settings


def test_folders_below_the_volume_are_right(tmp_path: Path) -> None:
    check_written(writing_to(tmp_path / "a", tmp_path / "b" / ".." / "c"), tmp_path)
    check_written(writing_to(tmp_path / "a", Path("/elsewhere"), quantize=False), tmp_path)


def test_every_way_out_is_refused_and_all_are_named(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "link").symlink_to(tmp_path)
    with pytest.raises(SettingsError) as raised:
        check_written(writing_to(volume / ".." / "out", volume / "link" / "out"), volume)
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "distributed.train.outputDir",
        "distributed.quantize.outputDir",
    ]
    with pytest.raises(SettingsError, match="outside the volume"):
        check_written(writing_to(Path(f"{volume}-other"), volume / "b"), volume)
