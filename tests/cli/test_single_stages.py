"""A stage by its name, on the model that an earlier job has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli_runner import assignments, command_here
from minimal_settings import PLAIN


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture
def options(model_folder: Path, data_file: Path, place: Path) -> list[str]:
    """One set of values for all commands: it asks for everything at once."""
    values: dict[str, Any] = {
        **PLAIN,
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(place / "out"),
        "train__maxSteps": 2,
        "train__saveStrategy": "epoch",
        "eval__strategy": "epoch",
        "eval__loadBestModel": True,
        "eval__earlyStoppingPatience": 2,
        "eval__numGeneratedSamples": 1,
        "quantize__outputDir": str(place / "quantized"),
        "quantize__woqBits": 4,
        "quantize__woqGroupSize": 16,
        "quantize__woqAlgo": "RTN",
        "benchmark__warmup": 1,
        "benchmark__iterations": 2,
        "benchmark__promptTokens": 8,
        "doQuantize": True,
        "doBenchmark": True,
    }
    return assignments(**values)


def written(place: Path) -> set[str]:
    return {file.name for file in (place / "out").glob("*_results.json")}


def test_each_stage_alone_leaves_what_it_leaves_in_a_job(
    options: list[str], place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = assignments(doEval=False, doQuantize=False, doBenchmark=False, eval__strategy="no")
    none += assignments(eval__loadBestModel=False, eval__earlyStoppingPatience=0)
    trained = command_here(capfd, monkeypatch, "run", *options, *none)
    assert trained.code == 0, trained.text
    assert written(place) == {"all_results.json", "train_results.json"}
    weights = (place / "out" / "adapter_model.safetensors").read_bytes()
    for stage in ("evaluate", "quantize", "benchmark"):
        outcome = command_here(capfd, monkeypatch, stage, *options)
        assert outcome.code == 0, outcome.text
    evaluation = json.loads((place / "out" / "eval_results.json").read_text())
    assert evaluation["base"]["perplexity"] != evaluation["tuned"]["perplexity"]
    assert (place / "quantized" / "quantization.json").is_file()
    assert {"tuned", "quantized"} == set(json.loads((place / "out" / "benchmark_results.json").read_text()))
    assert (place / "out" / "adapter_model.safetensors").read_bytes() == weights
    again = command_here(capfd, monkeypatch, "quantize", *options)
    assert "quantizing" not in again.text
    (place / "out" / "report.html").unlink()
    assert command_here(capfd, monkeypatch, "report", *options).code == 0
    page = (place / "out" / "report.html").read_text()
    assert "Perplexity" in page
    assert "Quantized" in page


def test_without_a_model_there_is_nothing_to_quantize(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = assignments(train__outputDir=str(tmp_path / "none"))
    for stage in ("quantize", "benchmark", "report"):
        outcome = command_here(capfd, monkeypatch, stage, *options, *elsewhere)
        assert outcome.code, outcome.text
        assert str(tmp_path / "none") in outcome.text
        assert "Traceback" not in outcome.text
