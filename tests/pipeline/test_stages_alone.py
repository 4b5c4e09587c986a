"""A stage leaves the same bits alone in a process as behind any other stage, and nothing in the libraries."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cli_runner import assignments, run_here
from minimal_settings import PLAIN
from process_pool import Moment, Warm

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "neural_compressor", "safetensors")
BEHIND_TRAINING, QUANTIZING = Moment("judging", 3), Moment("quantizing", 1)
GLOBALS: dict[str, Callable[[], object]] = {
    "gradients": torch.is_grad_enabled,
    "inference": torch.is_inference_mode_enabled,
    "autocast": lambda: torch.is_autocast_enabled("cpu"),
    "dtype": torch.get_default_dtype,
    "device": torch.get_default_device,
    "threads": torch.get_num_threads,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "precision": torch.get_float32_matmul_precision,
    "anomalies": torch.is_anomaly_enabled,
}


@pytest.fixture
def arguments(model_folder: Path, data_file: Path) -> Callable[..., list[str]]:
    def build(place: Path, **changes: Any) -> list[str]:
        values: dict[str, Any] = {
            "modelNameOrPath": str(model_folder),
            "train__dataFile": str(data_file),
            "train__outputDir": str(place / "out"),
            "train__maxSteps": 2,
            "train__saveStrategy": "no",
            "train__loraDropout": 0.1,
            "eval__numGeneratedSamples": 1,
            "quantize__outputDir": str(place / "quantized"),
            "quantize__woqBits": 4,
            "quantize__woqGroupSize": 16,
            "quantize__calibrationSamples": 4,
        }
        return assignments(**{**values, **PLAIN, **changes})

    return build


@pytest.mark.parametrize("algorithm", ["GPTQ", "AWQ", "TEQ", "RTN"])
def test_the_same_bits_in_one_process_as_in_one_for_each_stage(
    algorithm: str, arguments: Callable[..., list[str]], warm: Warm, tmp_path: Path
) -> None:
    """A job is killed behind its training, and again behind its evaluation."""
    changes = {"doQuantize": True, "quantize__woqAlgo": algorithm}
    left = [
        outcome(warm, place, arguments(place, **changes), deaths)
        for place, deaths in ((tmp_path / "once", []), (tmp_path / "thrice", [BEHIND_TRAINING, QUANTIZING]))
    ]
    assert left[0] == left[1]
    assert any("model.safetensors" in name for name in left[0])


def test_all_weights_are_judged_alike_behind_the_training_and_alone(
    arguments: Callable[..., list[str]], warm: Warm, tmp_path: Path
) -> None:
    left = [
        outcome(warm, place, arguments(place, train__useLora=False), deaths)
        for place, deaths in ((tmp_path / "once", []), (tmp_path / "twice", [BEHIND_TRAINING]))
    ]
    assert left[0] == left[1]


def outcome(warm: Warm, place: Path, given: list[str], deaths: list[Moment]) -> dict[str, bytes]:
    """The weights and the judgment that a job leaves, which dies at those moments before it ends."""
    for death in deaths:
        assert warm.run(["run", *given], death).code == -signal.SIGKILL
    ended = warm.run(["run", *given])
    assert ended.code == 0, ended.text
    assert ("step 1/2" in ended.text) == (not deaths)
    files = [*place.rglob("*.safetensors"), place / "out/eval_results.json"]
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


def test_nothing_stays_in_the_libraries(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, switches = functions(), {name: ask() for name, ask in GLOBALS.items()}
    outcome = run_here(capfd, monkeypatch, *arguments(tmp_path, doQuantize=True, quantize__woqAlgo="AWQ"))
    assert outcome.code == 0, outcome.text
    after = functions()
    assert [name for name, function in before.items() if after.get(name) is not function] == []
    assert {name: ask() for name, ask in GLOBALS.items()} == switches


def functions() -> dict[tuple[str, str], object]:
    """What can be called in each module of the libraries, and in its classes."""
    from llm_finetune import stages  # noqa: F401  # brings the libraries
    from llm_finetune.quantization import neural_compressor

    for name in ("awq", "gptq", "utility"):
        neural_compressor.weight_only(name)
    found: dict[tuple[str, str], object] = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name.partition(".")[0] not in LIBRARIES:
            continue
        for attribute, value in list(vars(module).items()):
            if callable(value):
                found[name, attribute] = value
            if type(value) is type and value.__module__ == name:
                found.update(
                    {(name, f"{attribute}.{inner}"): it for inner, it in vars(value).items() if callable(it)}
                )
    return found
