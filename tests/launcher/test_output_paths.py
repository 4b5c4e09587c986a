"""What a job writes stays where it began to, and in a pod on the volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_finetune.config import Settings, load
from llm_finetune.errors import OutputError, SettingsError
from llm_finetune.launcher.output_paths import check_written, resolved


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


def test_a_link_that_is_turned_meanwhile_takes_nothing_of_the_job_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    settings = resolved(writing_to(tmp_path / "link" / "out", Path("as/it/is")))
    assert settings.train.output_dir == str(tmp_path / "one" / "out")
    assert settings.quantize.output_dir == "as/it/is"


def test_a_link_that_leads_nowhere_but_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(OutputError, match=r"distributed\.train\.outputDir: .* in a circle"):
        resolved(writing_to(tmp_path / "link" / "out", tmp_path))
