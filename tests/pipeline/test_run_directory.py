"""Whose an output folder is, whatever version of the project wrote what it says."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_finetune.config import load
from llm_finetune.pipeline import fingerprint
from llm_finetune.pipeline.all_results import AllResults
from llm_finetune.pipeline.run_directory import RunDirectory, StageOutput, inspect_run
from llm_finetune.pipeline.run_record import RunRecord
from llm_finetune.stages import STAGES
from llm_finetune.training.result import TrainingHistory, TrainingResult

OPTIONS = ["distributed.doQuantize=true"]


def outputs(path: Path, *changes: str) -> list[StageOutput]:
    """What each stage of a job leaves."""
    options = [*OPTIONS, f"distributed.train.outputDir={path}", *changes]
    settings = load([], set_values=options).settings
    sources = fingerprint.Sources(settings.to_values(), "model", "records", "validation")
    return [stage.output(settings, sources) for stage in STAGES if stage.enabled(settings)]


def finished(path: Path, *, without: str = "", beside: dict[str, Any] | None = None) -> None:
    """A run whose training and evaluation are done, as a version with other keys wrote it."""
    old = [
        replace(
            output,
            inputs={key: value for key, value in output.inputs.items() if key != without} | (beside or {}),
        )
        for output in outputs(path)
    ]
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").touch()
    TrainingResult(
        train_loss=3.0, steps=9, seconds=1.5, tokens_per_second=9.0, peak_memory_bytes=10**9
    ).write(path)
    TrainingHistory([]).write(path)
    AllResults({}).write(path)
    folder = RunDirectory(path, continues=True)
    RunRecord(deciding=old[0].inputs, stages={}).write(path)
    for output in old[:2]:
        folder.finish(output)


def look(path: Path, *changes: str) -> RunDirectory:
    return inspect_run(path, outputs(path, *changes), overwrite=True, fresh=False)


def keys() -> list[str]:
    """Those that decide an evaluation."""
    evaluation = outputs(Path("out"))[1]
    return sorted(key for key in evaluation.inputs if not key.endswith(")"))


@pytest.mark.parametrize("key", keys())
def test_a_key_that_an_earlier_version_had_not_has_its_default(key: str, tmp_path: Path) -> None:
    finished(tmp_path / "out", without=key)
    found = look(tmp_path / "out")
    # Without a default there is nothing that the earlier version can be taken to have meant.
    assert found.continues
    assert found.done == ("train", "evaluate")


def test_a_new_key_with_another_value_than_its_default_is_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished(tmp_path / "out", without="distributed.train.useDora")
    with caplog.at_level(logging.WARNING):
        found = look(tmp_path / "out", "distributed.train.useDora=true")
    assert not found.continues
    assert "overwriting the previous run in" in caplog.text
    assert "distributed.train.useDora was False and is True" in caplog.text


def test_a_key_that_is_gone_or_decides_nothing_any_more_discards_nothing(tmp_path: Path) -> None:
    old = {"distributed.train.gone": 5, "distributed.train.loggingSteps": 7}
    finished(tmp_path / "out", beside=old)
    assert look(tmp_path / "out").done == ("train", "evaluate")


def test_other_files_are_another_run_though_no_key_differs(tmp_path: Path) -> None:
    finished(tmp_path / "out", beside={"distributed.train.outputDir (its files)": "another model"})
    assert not look(tmp_path / "out").continues
    assert not fingerprint.is_same({}, {"distributed.train (its records)": "records"})


def test_what_is_made_anew_is_named_with_the_key_that_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished(tmp_path / "out")
    with caplog.at_level(logging.INFO):
        found = look(tmp_path / "out", "distributed.eval.maxNewTokens=9")
    assert found.done == ("train",)
    assert "all_results.json is out of date: distributed.eval.maxNewTokens" in caplog.text
