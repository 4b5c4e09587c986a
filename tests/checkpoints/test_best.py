"""Of several evaluations on the way the best one's weights are left, whenever checkpoints are due."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from llm_finetune.checkpoints import directories
from process_pool import Warm, in_step

EVERY = 8


@pytest.fixture
def options(
    lora_run: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """A validation that each step makes worse, so the best is never the last.

    Its answers are of letters that no training record has: what is learned takes their probability away.
    """
    others = tmp_path_factory.mktemp("others") / "validation.jsonl"
    record = {"instruction": "Say it again.", "input": "QXZ", "output": "QXZJKV " * 6}
    others.write_text(json.dumps(record) + "\n")
    return partial(
        lora_run,
        doEval=True,
        eval__dataFile=str(others),
        train__lrScheduler="constant",
        train__maxSteps=5 * EVERY,
        train__saveStrategy="steps",
        eval__strategy="steps",
        eval__steps=EVERY,
        eval__loadBestModel=True,
    )


def losses(out: Path) -> dict[int, float]:
    points = json.loads((out / "train_history.json").read_text())
    return {point["step"]: point["eval_loss"] for point in points if "eval_loss" in point}


def left(out: Path) -> float:
    return float(json.loads((out / "eval_results.json").read_text())["tuned"]["loss"])


@pytest.mark.parametrize("limit", [1, 2])
def test_the_best_is_kept_though_no_checkpoint_was_due(
    limit: int, warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    ended = warm.run(options(tmp_path, train__saveSteps=100 * EVERY, train__saveTotalLimit=limit))
    assert ended.code == 0, ended.text
    seen = losses(tmp_path)
    assert min(seen, key=lambda step: seen[step]) != max(seen)
    assert left(tmp_path) == pytest.approx(min(seen.values()), rel=1e-5)


def test_a_best_one_that_broke_is_named_and_the_last_is_left(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = options(tmp_path, train__saveSteps=EVERY, train__saveTotalLimit=None)
    assert warm.run(arguments, in_step(5 * EVERY)).code == -9
    steps = directories.steps(tmp_path)
    state = json.loads((tmp_path / directories.name_of(steps[0]) / "trainer_state.json").read_text())
    best = state["best_global_step"]
    assert best != steps[0]
    (tmp_path / directories.name_of(best) / "adapter_model.safetensors").unlink()
    ended = warm.run(arguments)
    assert ended.code == 0, ended.text
    assert f"checkpoint-{best}, which had the lowest loss, is corrupt: adapter_model" in ended.text
    assert left(tmp_path) == pytest.approx(losses(tmp_path)[5 * EVERY], rel=1e-5)
