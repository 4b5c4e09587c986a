"""Going on where a run was killed, with another group, other settings, or after its loss has gone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_runner import assignments
from llm_finetune.checkpoints import directories, manifest
from minimal_settings import PLAIN
from process_pool import Moment, Warm, in_step

KILLED = -9


@pytest.fixture
def options(lora_run: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return partial(
        lora_run,
        train__epochs=2,
        train__perDeviceBatchSize=2,
        train__gradientAccumulationSteps=2,
        train__saveStrategy="steps",
        train__saveSteps=1,
    )


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def losses(out: Path) -> list[float]:
    return [point["loss"] for point in read(out / "train_history.json")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(out / "adapter_model.safetensors")
    return tensors


def test_another_number_of_ranks_goes_on_with_the_same_steps(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Dropout belongs to the batch and not to the rank, so that even with it the curves are the same."""
    assert warm.run(options(tmp_path / "steady")).code == 0
    arguments = options(tmp_path / "changed")
    assert warm.run(arguments, Moment("step", 40)).code == KILLED
    ends = warm.run_group(arguments, 2, {0: Moment("collective", 30)})
    assert ends[0].code == KILLED
    assert ends[1].code == 128
    ended = warm.run(arguments)
    assert ended.code == 0, ended.text
    changed, steady = losses(tmp_path / "changed"), losses(tmp_path / "steady")
    assert changed == pytest.approx(steady, rel=1e-4)
    expected = weights(tmp_path / "steady")
    for name, weight in weights(tmp_path / "changed").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_same_adapters(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The second start finds the base model judged already, and draws no random numbers for that."""
    judged = {"doEval": True, "train__saveStrategy": "no", "train__maxSteps": 4}
    assert warm.run(options(tmp_path / "steady", **judged)).code == 0
    assert warm.run(options(tmp_path / "killed", **judged), in_step(2)).code == KILLED
    assert warm.run(options(tmp_path / "killed", **judged)).code == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "steady")


def test_ranks_that_do_not_divide_a_step_make_smaller_ones_or_are_refused(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    changes = {"train__gradientAccumulationSteps": 3, "train__perDeviceBatchSize": 1}
    arguments = options(tmp_path / "out", **changes)
    assert warm.run(arguments, Moment("step", 40)).code == KILLED
    before = int(str(directories.newest_whole(tmp_path / "out")).split("-")[1])
    strict = options(tmp_path / "out", **changes, train__requireConstantBatchSize=True)
    refused = warm.run_group(strict, 2, {})
    assert {one.code for one in refused} == {128}, refused[0].text
    expected = "distributed.train.requireConstantBatchSize: 2 processes cannot share 3 sequences"
    assert expected in refused[0].text
    first, _ = warm.run_group(arguments, 2, {})
    assert first.code == 0, first.text
    assert "its steps have 2 from here on" in first.text
    results = read(tmp_path / "out" / "train_results.json")
    assert results["sequences_per_step"] == 2
    rows = int(first.text.split(" rows of at most")[0].split()[-1])
    left = rows - 3 * before
    assert results["steps"] == before + -(-left // 2) + -(-rows // 2)
    assert "of 2 sequences" in (tmp_path / "out" / "report.html").read_text()


def test_memory_can_be_saved_in_the_middle_of_a_run(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert warm.run(options(tmp_path / "out"), Moment("step", 40)).code == KILLED
    frugal = options(tmp_path / "out", train__gradientCheckpointing=True)
    ended = warm.run(frugal)
    assert ended.code == 0, ended.text
    assert "going on from" in ended.text
    assert warm.run(options(tmp_path / "steady")).code == 0
    one, other = weights(tmp_path / "out"), weights(tmp_path / "steady")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_broken_checkpoint_gives_way_to_the_one_before(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert warm.run(options(out), Moment("step", 60)).code == KILLED
    newest = out / str(directories.newest_whole(out))
    weights_file = newest / "adapter_model.safetensors"
    os.truncate(weights_file, 100)
    ended = warm.run(options(out))
    assert ended.code == 0, ended.text
    assert f"{newest} is corrupt: adapter_model.safetensors: 100 bytes found" in ended.text
    assert not list(out.glob("broken-*"))
    assert warm.run(options(tmp_path / "steady")).code == 0
    assert losses(out) == losses(tmp_path / "steady")


def test_what_an_earlier_run_left_waits_until_the_new_model_is_whole_and_then_is_gone(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    plain = {"train__saveStrategy": "no", "train__maxSteps": 1}
    first, second = options(tmp_path / "out", **plain), options(tmp_path / "out", **plain, train__seed=7)
    steady = warm.run(options(tmp_path / "steady", **plain, train__seed=7))
    assert warm.run(first).code == 0
    model = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    shutil.copytree(tmp_path / "out", tmp_path / "first")
    last = warm.run(second).counts["disk"]
    for moment in range(1, last, 17):
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "first", tmp_path / "out")
        assert warm.run(second, Moment("disk", moment)).code == KILLED
        kept = [file.read_bytes() for file in (tmp_path / "out").rglob("adapter_model.safetensors")]
        assert model in kept or "train" in read(tmp_path / "out" / "run.json")["stages"]
        assert warm.run(second).code == 0
        assert {file.name for file in (tmp_path / "out").iterdir()} == {
            file.name for file in (tmp_path / "steady").iterdir()
        }
        assert losses(tmp_path / "out") == losses(tmp_path / "steady")
    assert steady.code == 0


def edit(name: str, **changes: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps({**read(folder / name), **changes}))


def edit_tensor(name: str, value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "optimizer.safetensors")
        tensors[name].fill_(value)
        save_file(tensors, folder / "optimizer.safetensors")

    return change


def edit_numbers(section: str, **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = read(folder / "optimizer.json")
        place = content[section][0] if section == "param_groups" else content[section]
        place.update(changes)
        (folder / "optimizer.json").write_text(json.dumps(content))

    return change


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no progress": (lambda folder: (folder / "progress.json").unlink(), "progress.json: missing"),
    "no state": (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json: missing"),
    "no optimizer": (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors"),
    "other numbers": (lambda folder: (folder / "optimizer.json").write_text("{}"), "param_groups"),
    "another step": (edit("progress.json", step=9), "found step 9, expected 2"),
    "a step before the first": (edit("progress.json", step=-1), "step: found '-1'"),
    "an epoch too far": (edit("progress.json", epoch=2), "rows seen in 2 steps"),
    "a row too far": (edit("progress.json", row=10**9), "row 1000000000 of"),
    "the end already": (edit("progress.json", is_over=True), "found the end at step 2"),
    "a loss that is no number": (edit("progress.json", loss_sum=float("nan")), "loss_sum: found 'nan'"),
    "the Trainer at another step": (edit("trainer_state.json", global_step=-5), "global_step: found -5"),
    "the best still to come": (edit("trainer_state.json", best_global_step=7), "best_global_step: found 7"),
    "a callback of its own": (
        edit("trainer_state.json", stateful_callbacks={"Other": {"args": {}, "attributes": {}}}),
        "stateful_callbacks: found Other",
    ),
    "another place of the schedule": (edit_numbers("scheduler", last_epoch=7), "last_epoch: found 7"),
    "a rate below 0": (edit_numbers("param_groups", lr=-1.0), "param_groups.0.lr: found '-1.0'"),
    "parameters of others": (edit_numbers("param_groups", params=[0, 99]), "param_groups list"),
    "a moment below 0": (edit_tensor("0.exp_avg_sq", -1.0), "0.exp_avg_sq holds what no training leaves"),
    "a moment of no number": (edit_tensor("1.exp_avg", float("nan")), "1.exp_avg holds"),
    "steps that were not": (edit_tensor("0.step", 1e6), "0.step is no count of steps up to 2"),
    "weights of others": (edit("weights.json", sha256={"other": ""}), "weights.json: "),
}


@pytest.fixture(scope="module")
def stopped(
    warm: Warm, model_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Callable[[Path], list[str]]]:
    """A run that was killed behind its second checkpoint, and what starts it in a copy of its folder."""
    folder = tmp_path_factory.mktemp("stopped")

    def arguments(out: Path) -> list[str]:
        places = {"modelNameOrPath": str(model_folder), "train__dataFile": str(data_file)}
        steps = {"train__maxSteps": 3, "train__saveStrategy": "steps", "train__saveSteps": 1, "doEval": False}
        return ["run", *assignments(**PLAIN, **places, **steps, train__outputDir=str(out))]

    assert warm.run(arguments(folder / "out"), in_step(3)).code == KILLED
    return folder / "out", arguments


@pytest.mark.parametrize(("change", "said"), ODD.values(), ids=list(ODD))
def test_a_whole_checkpoint_with_numbers_that_cannot_be_gives_way_to_the_one_before(
    change: Callable[[Path], object],
    said: str,
    stopped: tuple[Path, Callable[[Path], list[str]]],
    warm: Warm,
    tmp_path: Path,
) -> None:
    """The manifest speaks for it: another version wrote it, or somebody edited it."""
    kept, arguments = stopped
    out = Path(shutil.copytree(kept, tmp_path / "out"))
    folder = out / "checkpoint-2"
    change(folder)
    (folder / "manifest.json").unlink()
    manifest.write(folder, 2, 1)
    ended = warm.run(arguments(out))
    assert ended.code == 0, ended.text
    assert f"{folder} is corrupt: " in ended.text
    assert said in ended.text
    assert f"going on from {out / 'checkpoint-1'}" in ended.text


@pytest.mark.parametrize("clipped", [0, 1])
def test_a_gradient_that_is_no_number_stops_before_the_weights_change(
    clipped: float, warm: Warm, options: Callable[..., list[str]], model_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(model_folder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] *= 1e20
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    changes = {"modelNameOrPath": str(base), "train__datasetConcatenation": False, "train__useLora": False}
    stopped = warm.run(options(tmp_path / "out", **changes, train__maxGradNorm=clipped))
    assert stopped.code == 7, stopped.text
    assert "step 1: the gradient's norm is inf" in stopped.text


def test_a_model_lost_in_the_very_last_step_is_told(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    wild = {"train__learningRate": 1e38, "train__maxGradNorm": 0, "train__useLora": False}
    ended = warm.run(options(tmp_path, **wild, train__maxSteps=1, doEval=True))
    assert ended.code == 7, ended.text
    assert "the tuned model's validation loss is nan" in ended.text


def test_a_loss_that_is_no_number_stops_with_the_records_named(
    warm: Warm, options: Callable[..., list[str]], data_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wild = {"train__learningRate": 1e30, "train__maxGradNorm": 0, "train__saveSteps": 100}
    stopped = warm.run(options(out, **wild, train__useLora=False))
    assert stopped.code == 7, stopped.text
    (told,) = (line for line in stopped.text.splitlines() if line.startswith("error: "))
    assert "the loss is nan" in told or "the loss is inf" in told
    assert f"{data_file.name} row " in told
    assert "Traceback" not in stopped.text
    step = int(told.split("step ")[1].split(":")[0])
    assert directories.newest_whole(out) == f"checkpoint-{step - 1}"


def test_how_often_to_save_and_to_log_may_change_in_the_middle_of_a_run(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    every = {"train__saveTotalLimit": None, "train__maxSteps": 10}
    assert warm.run(options(tmp_path, **every, train__saveSteps=5), in_step(14)).code == KILLED
    assert directories.steps(tmp_path) == [5]
    ended = warm.run(options(tmp_path, **every, train__saveSteps=2, train__loggingSteps=10))
    assert ended.code == 0, ended.text
    assert directories.steps(tmp_path) == [10, 8, 6, 5]
    assert [point["step"] for point in read(tmp_path / "train_history.json")] == [1, 2, 3, 4, 5, 10]


def test_minutes_make_checkpoints_where_the_strategy_would_wait_for_the_epoch(
    warm: Warm, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    often = {"train__saveIntervalMinutes": 1e-9, "train__saveTotalLimit": None, "train__maxSteps": 3}
    assert warm.run(options(tmp_path / "out", train__saveStrategy="epoch", **often)).code == 0
    assert directories.steps(tmp_path / "out") == [3, 2, 1]
    shutil.rmtree(tmp_path / "out")
    assert warm.run(options(tmp_path / "out", train__saveStrategy="no", **often)).code == 0
    assert directories.steps(tmp_path / "out") == []
