"""The main job through its public door: the command, and the files that it leaves."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli_runner import SCRIPTS, Outcome, assignments, plant, run_apart, run_here, values_file
from minimal_settings import PLAIN
from tiny_model import write_records

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data sets go where the tests of one session find them again, and nobody else."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def keys(model_folder: Path, data_file: Path, tmp_path: Path) -> dict[str, Any]:
    """Those of a small run."""
    return {
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(tmp_path / "out"),
        **PLAIN,
    }


@pytest.fixture
def options(keys: dict[str, Any]) -> Callable[..., list[str]]:
    """The options of a small run; keyword arguments change or add keys."""
    return lambda **changes: assignments(**{**keys, **changes})


@pytest.fixture
def values(keys: dict[str, Any]) -> Callable[..., str]:
    """The same as the text of a values file."""
    return lambda **changes: values_file(**{**keys, **changes})


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *arguments: run_here(capfd, monkeypatch, *arguments)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def losses(folder: Path) -> list[float]:
    """The loss of every step, from the last checkpoint's history."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = read(last / "trainer_state.json")["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_a_run_leaves_a_tuned_adapter_and_its_results(
    run: Run, options: Callable[..., list[str]], model_folder: Path, tmp_path: Path
) -> None:
    outcome = run(*options(train__epochs=3, eval__numGeneratedSamples=2, eval__maxNewTokens=8))
    assert outcome.code == 0, outcome.text
    out = tmp_path / "out"
    train, evaluation, everything = (read(out / f"{name}_results.json") for name in ("train", "eval", "all"))

    figures = {"train_loss", "steps", "sequences_per_step", "seconds", "tokens_per_second"}
    assert set(train) == {*figures, "peak_memory_bytes"}
    assert train["steps"] == len(losses(out))
    assert evaluation["eval_loss"] == evaluation["tuned"]["loss"]
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["eval_loss"]))
    assert evaluation["tuned"]["perplexity"] < 0.9 * evaluation["base"]["perplexity"]
    assert everything == {**train, **evaluation}
    assert [set(sample) for sample in evaluation["samples"]] == [{"prompt", "expected", "base", "tuned"}] * 2
    assert all(0 <= evaluation[model]["rouge_l"] <= 1 for model in ("base", "tuned"))

    weights = load_file(out / "adapter_model.safetensors")
    assert weights
    for name, weight in weights.items():
        assert weight.dtype == torch.float32
        assert weight.any(), f"{name} never moved"
    assert f"step 1/{train['steps']}" in outcome.text
    assert "tokens/s" in outcome.text


def test_the_adapter_loads_by_itself_and_agrees_with_the_evaluation(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Plain peft and transformers, record by record without any packing, come to the same loss."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    unseen = write_records(tmp_path / "unseen.jsonl", range(100, 112))
    assert run(*options(eval__dataFile=str(unseen), train__maxSteps=3)).code == 0
    out = tmp_path / "out"
    model = AutoPeftModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    total, count = 0.0, 0
    for line in unseen.read_text().splitlines():
        record = json.loads(line)
        prompt = (
            f"Do what is asked.\n\n### Instruction:\n{record['instruction']}"
            f"\n\n### Input:\n{record['input']}\n\n### Response:\n"
        )
        prompt_ids = tokenizer(prompt)["input_ids"]
        ids = tokenizer(prompt + record["output"] + tokenizer.eos_token)["input_ids"]
        labels = [-100] * len(prompt_ids) + ids[len(prompt_ids) :]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total += loss.item() * (len(ids) - len(prompt_ids))
        count += len(ids) - len(prompt_ids)
    assert read(out / "eval_results.json")["tuned"]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_packing_changes_neither_the_evaluation_nor_what_an_epoch_sees(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    found = []
    for packed in (True, False):
        out = tmp_path / f"packed-{packed}"
        assert (
            run(
                *options(train__datasetConcatenation=packed, train__outputDir=str(out), train__maxSteps=1)
            ).code
            == 0
        )
        found.append(read(out / "eval_results.json")["base"]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_two_ranks_give_the_curve_of_one_rank_with_twice_the_accumulation(
    run: Run,
    options: Callable[..., list[str]],
    values: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = {"train__epochs": 2, "train__saveStrategy": "steps", "train__saveSteps": 1}
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*options(**common, train__outputDir=str(one), train__gradientAccumulationSteps=2)).code == 0
    # The other way in: values from a pipe, in a folder of strangers' files.
    planted = plant(tmp_path / "planted")
    monkeypatch.chdir(planted)
    changes = {"train__outputDir": str(two), "processesPerWorker": 2, "train__useFastTokenizer": False}
    piped = values(**common, **changes)
    outcome = run_apart("-f", "-", stdin=piped)
    assert outcome.code == 0, outcome.text
    assert not (planted / "ran").exists()
    assert outcome.text.count("useFastTokenizer: every tokenizer is a fast one") == 1
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert read(two / "eval_results.json")["tuned"]["loss"] == pytest.approx(
        read(one / "eval_results.json")["tuned"]["loss"], rel=1e-4
    )
    assert read(two / "eval_results.json")["base"] == pytest.approx(
        read(one / "eval_results.json")["base"], rel=1e-6
    )


def test_full_fine_tuning_in_bf16_follows_fp32(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    """At 2e-5 updates are below bf16's resolution; without fp32 masters the loss would stand still."""
    curves = {}
    for bf16 in ("auto", False):
        out = tmp_path / f"bf16-{bf16}"
        full = {
            "train__useLora": False,
            "train__learningRate": 2e-5,
            "train__epochs": 4,
            "train__outputDir": str(out),
        }
        assert run(*options(**full, train__bf16=bf16, train__lrScheduler="constant")).code == 0
        curves[bf16] = losses(out)
        weights = load_file(out / "model.safetensors")
        assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert curves[False][-1] < curves[False][0]
    fall = curves[False][0] - curves[False][-1]
    assert curves["auto"][0] - curves["auto"][-1] == pytest.approx(fall, rel=0.2)


def test_a_finished_run_is_not_run_again_unless_asked(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*options(train__maxSteps=2)).code == 0
    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    again = run(*options(train__maxSteps=2, train__loggingSteps=2, logLevel="info"))
    assert again.code == 0
    assert "finished" in again.text
    assert "--fresh" in again.text
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert run("--fresh", *options(train__maxSteps=2)).code == 0
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns != before
    assert not (out / "previous").exists()


def test_what_no_run_left_in_the_output_folder_is_kept(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    for name in ("README.md", "runs/notes.txt"):
        (out / name).write_text("mine")
    refused = run(*options(train__maxSteps=2, train__overwriteOutputDir=False))
    assert refused.code == 5
    assert "holds README.md" in refused.text
    assert run(*options(train__maxSteps=2)).code == 0
    assert "mine" not in (out / "README.md").read_text()
    for name in ("README.md", "runs/notes.txt"):
        assert (out / "preserved-1" / name).read_text() == "mine"


def test_a_broken_result_is_made_anew_but_no_model_is_trained_again_for_one(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*options(train__maxSteps=2)).code == 0
    before = read(out / "eval_results.json")["eval_loss"]
    (out / "eval_results.json").write_text('{"eval_loss": 1.0, "perplexity": "low"}')
    again = run(*options(train__maxSteps=2))
    assert again.code == 0, again.text
    assert "perplexity: found 'low', expected a valid number; the stage that writes it" in again.text
    assert "step 1/" not in again.text
    assert read(out / "eval_results.json")["eval_loss"] == pytest.approx(before)
    (out / "train_results.json").write_text("[]")
    refused = run(*options(train__maxSteps=2))
    assert refused.code == 5, refused.text
    assert "train_results.json: its content: found '[]', expected a valid dictionary" in refused.text
    assert "Traceback" not in refused.text


def test_another_runs_output_is_kept_or_replaced_as_the_values_say(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*options(train__maxSteps=2)).code == 0
    (out / "mine.txt").write_text("not a run's")
    refused = run(*options(train__maxSteps=3, train__overwriteOutputDir=False))
    assert refused.code == 5
    assert "distributed.train.maxSteps was 2 and is 3" in refused.text
    assert read(out / "train_results.json")["steps"] == 2
    replaced = run(*options(train__maxSteps=3))
    assert replaced.code == 0
    assert f"overwriting the previous run in {out} " in replaced.text
    assert "another run: distributed.train.maxSteps was 2 and is 3" in replaced.text
    assert read(out / "train_results.json")["steps"] == 3
    assert (out / "mine.txt").read_text() == "not a run's"
    assert not (out / "checkpoint-2").exists()


def test_what_another_evaluation_or_another_place_changes_is_not_the_training(
    run: Run, options: Callable[..., list[str]], data_file: Path, tmp_path: Path
) -> None:
    assert run(*options(train__maxSteps=2)).code == 0
    moved = Path(shutil.copy(data_file, tmp_path / "moved.jsonl"))
    strict = {"train__maxSteps": 2, "train__dataFile": str(moved), "train__overwriteOutputDir": False}
    again = run(*options(**strict, eval__maxSamples=3))
    assert again.code == 0, again.text
    assert "step 1/2" not in again.text
    assert "3 records" in again.text
    write_records(moved, range(61))
    refused = run(*options(**strict))
    assert refused.code == 5
    assert "another run: distributed.train (its records) changed" in refused.text


def test_a_model_that_is_gone_is_made_anew(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out, quantized = tmp_path / "out", tmp_path / "quantized"
    values = options(train__maxSteps=2, doQuantize=True, quantize__outputDir=str(quantized))
    assert run(*values).code == 0
    weights = (out / "adapter_model.safetensors").read_bytes()
    (out / "adapter_model.safetensors").unlink()
    shutil.rmtree(quantized)
    again = run(*values)
    assert again.code == 0, again.text
    assert f"{out}: model files are missing" in again.text
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    assert (quantized / "quantization.json").is_file()


@pytest.mark.parametrize("place", ["", "checkpoint-7", "previous/base"])
def test_a_run_does_not_take_its_own_base_model_away(
    place: str, run: Run, options: Callable[..., list[str]], model_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(model_folder, tmp_path / "out" / place)
    before = sorted(base.iterdir())
    refused = run(*options(train__maxSteps=2, modelNameOrPath=str(base)))
    assert refused.code == 5, refused.text
    assert f"{tmp_path / 'out'} holds the base model" in refused.text
    assert sorted(base.iterdir()) == before


def test_the_quantized_model_goes_where_a_link_leads(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to("large")
    for bits in (8, 4):
        values = options(
            train__maxSteps=2,
            doQuantize=True,
            quantize__outputDir=str(tmp_path / "link"),
            quantize__woqBits=bits,
        )
        assert run(*values).code == 0
        assert read(tmp_path / "large" / "quantization.json")["bits"] == bits
    assert (tmp_path / "link").is_symlink()
    assert not list(tmp_path.glob(".*"))


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    run: Run, options: Callable[..., list[str]], values: Callable[..., str], tmp_path: Path
) -> None:
    steady = {
        "train__epochs": 12,
        "train__saveStrategy": "steps",
        "train__saveSteps": 4,
        "train__loraDropout": 0.1,
        "train__outputDir": str(tmp_path / "steady"),
    }
    assert run(*options(**steady)).code == 0
    changes = {**steady, "train__outputDir": str(tmp_path / "killed")}
    killed = options(**changes)
    # Its values come from a pipe, and it starts itself again with another allocator.
    (tmp_path / "killed.yaml").write_text(values(**changes, train__optimizations__memoryAllocator="auto"))
    with (tmp_path / "killed.yaml").open() as piped:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "finetune.py"), "run", "-f", "-"],
            stdin=piped,
            stderr=subprocess.DEVNULL,
        )
    while not list((tmp_path / "killed").glob("checkpoint-*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adapter_config.json").exists()
    # As an earlier version would have left it.
    (tmp_path / "killed" / "base_model_evaluation.json").rename(tmp_path / "killed" / "base_results.json")
    outcome = run(*killed)
    assert outcome.code == 0
    assert "going on from" in outcome.text
    assert "base model: validation loss" not in outcome.text
    assert losses(tmp_path / "killed") == losses(tmp_path / "steady")
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("steady", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_evaluation_on_the_way_picks_the_best_checkpoint(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    outcome = run(
        *options(
            train__epochs=6,
            train__learningRate=0.3,  # too high on purpose: the best is not the last
            train__saveStrategy="epoch",
            train__saveTotalLimit=1,
            eval__strategy="epoch",
            eval__loadBestModel=True,
            eval__earlyStoppingPatience=2,
        )
    )
    assert outcome.code == 0, outcome.text
    out = tmp_path / "out"
    state = read(max(out.glob("checkpoint-*"), key=os.path.getmtime) / "trainer_state.json")
    seen = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(seen) > 1
    assert read(out / "eval_results.json")["tuned"]["loss"] == pytest.approx(min(seen), rel=1e-5)


def test_a_tuned_model_is_evaluated_without_training(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*options(train__maxSteps=3)).code == 0
    trained = read(out / "eval_results.json")
    assert run(*options(train__maxSteps=3, doTrain=False)).code == 0
    again = read(out / "eval_results.json")
    for model in ("base", "tuned"):
        assert again[model] == pytest.approx(trained[model], rel=1e-5)
    assert (out / "adapter_model.safetensors").exists()


def test_tensorboard_files_hold_the_curve(
    run: Run, options: Callable[..., list[str]], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(*options(train__maxSteps=3, train__reportTo="tensorboard")).code == 0
    (file,) = (tmp_path / "out").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3]


def test_torchrun_starts_the_same_ranks(options: Callable[..., list[str]], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(SCRIPTS / "finetune.py"), "run", *options(train__maxSteps=2)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out" / "train_results.json")["steps"] == 2
