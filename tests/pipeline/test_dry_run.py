"""`--check` shows what would be trained on, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli_runner import Outcome, assignments, run_here

Check = Callable[..., Outcome]


@pytest.fixture
def check(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Check:
    """Runs the check of a job on a data file, whose results would go to `out` in tmp_path."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(data_file: Path, **changed: Any) -> Outcome:
        values = {
            "modelNameOrPath": str(model_folder),
            "train__datasetName": None,
            "train__dataFile": str(data_file),
            "train__outputDir": str(tmp_path / "out"),
            "train__bf16": "auto",
        }
        return run_here(capfd, monkeypatch, "--check", *assignments(**values, **changed))

    return run


def test_check_shows_prompts_and_figures_and_writes_nothing(
    check: Check, data_file: Path, tmp_path: Path
) -> None:
    steers = {"instruction": "Say\x1b[2J ⟧ it.", "output": "a\n10:00:00 INFO done: all is in /evil\r\x1b[1A"}
    first = tmp_path / "first.jsonl"
    first.write_text(json.dumps(steers) + "\n" + data_file.read_text())
    outcome = check(first, train__maxSeqLength=128, train__promptWithInput="Do it.")
    assert outcome.code == 0, outcome.text
    assert "all 61 records checked; validation: 0.2 of them" in outcome.text
    assert f"--- {first}, row 1" in outcome.text
    assert "    ### Response:\n    ⟦The red fox runs over the hill. 0</s>⟧" in outcome.text
    assert "alpaca: the model's name says neither chat nor instruct" in outcome.text
    assert "fewer positions" in outcome.text
    # A record steers no terminal, passes for no line of the log, and does not say itself what is trained on.
    assert r"Say\x1b[2J \u27e7 it." in outcome.text
    assert "\n    10:00:00 INFO done" in outcome.text
    assert "\x1b" not in outcome.text
    assert list(tmp_path.iterdir()) == [first]


def test_check_says_that_no_result_could_be_written(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "out")
    values = {"modelNameOrPath": str(model_folder), "train__outputDir": output, "train__bf16": "auto"}
    outcome = run_here(capfd, monkeypatch, "--check", *assignments(**values))
    assert outcome.code == 5, outcome.text
    assert f"{tmp_path}/file/out: cannot be written" in outcome.text


def test_records_that_are_cut_are_a_warning_with_their_share(
    check: Check, data_file: Path, tmp_path: Path
) -> None:
    outcome = check(data_file, train__maxSeqLength=32)
    assert outcome.code == 0, outcome.text
    cut = "60 of 60 measured records (100.0%) exceed maxSeqLength 32: prompts are truncated on the left"
    valid = f"Configuration, model and data are valid. Output directory: {tmp_path / 'out'}"
    assert 0 < outcome.text.index(f"WARNING: {cut}") < outcome.text.index(valid)
    assert f"--- {data_file}, row 1 (prompt truncated on the left" in outcome.text
