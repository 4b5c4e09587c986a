"""Jobs killed with SIGKILL at any place, again and again: each goes on, and ends as if nothing had been."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tally import TALLY

from cli_runner import assignments
from minimal_settings import PLAIN
from process_pool import Moment, Warm
from tiny_model import tiny_model

KILLED = -9

JOBS: dict[str, dict[str, Any]] = {
    "LoRA with dropout, a checkpoint every other step": {
        "train__epochs": 3,
        "train__loraDropout": 0.1,
        "train__gradientAccumulationSteps": 2,
        "train__saveStrategy": "steps",
        "train__saveSteps": 2,
        "train__loggingSteps": 3,
    },
    "all weights, the best epoch wins": {
        "train__epochs": 4,
        "train__useLora": False,
        "train__learningRate": 0.01,
        "train__saveStrategy": "epoch",
        "train__saveTotalLimit": 1,
        "eval__strategy": "epoch",
        "eval__loadBestModel": True,
        "eval__earlyStoppingPatience": 2,
    },
}

# Beside a Llama's: files that name the weights otherwise than the model does.
CHAINS = {
    ("llama", "LoRA with dropout, a checkpoint every other step"): 8,
    ("llama", "all weights, the best epoch wins"): 8,
    ("gpt_neox", "all weights, the best epoch wins"): 3,
    ("mixtral", "all weights, the best epoch wins"): 3,
}


@pytest.fixture(scope="module")
def base_of(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a base model, with the tokenizer of the shared one."""

    @cache
    def folder(architecture: str) -> Path:
        if architecture == "llama":
            return model_folder
        made = tmp_path_factory.mktemp(architecture)
        for file in model_folder.glob("tokenizer*"):
            shutil.copy(file, made)
        vocabulary = json.loads((model_folder / "config.json").read_text())["vocab_size"]
        tiny_model(architecture, vocabulary=vocabulary).save_pretrained(made)
        return made

    return folder


def command(model_folder: Path, data_file: Path, out: Path, job: str) -> list[str]:
    where = {
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(out),
    }
    return ["run", *assignments(**{**where, **PLAIN, **JOBS[job]})]


def outcome(out: Path) -> dict[str, Any]:
    """What a run leaves that must not depend on when it was killed."""
    (weights,) = out.glob("*model.safetensors")
    training = json.loads((out / "train_results.json").read_text())
    curve = json.loads((out / "train_history.json").read_text())
    return {
        "weights": weights.read_bytes(),
        "evaluation": json.loads((out / "eval_results.json").read_text()),
        "train_loss": training["train_loss"],
        "steps": training["steps"],
        "losses": [{name: point[name] for name in point if name != "tokens_per_second"} for point in curve],
    }


@pytest.mark.parametrize(("architecture", "job"), CHAINS)
def test_killed_anywhere_a_run_ends_as_if_it_had_not_been(
    architecture: str,
    job: str,
    warm: Warm,
    base_of: Callable[[str], Path],
    data_file: Path,
    tmp_path: Path,
) -> None:
    model_folder = base_of(architecture)
    steady = warm.run(command(model_folder, data_file, tmp_path / "steady", job))
    assert steady.code == 0, steady.text
    expected = outcome(tmp_path / "steady")

    def chain(number: int) -> int:
        """One job, killed until it happens to come to its end."""
        chance, kills = random.Random(f"{job} {number}"), 0
        out = tmp_path / str(number)
        while True:
            event = chance.choice(["step", "disk"])
            moment = Moment(event, chance.randint(1, steady.counts[event] // 2))
            ended = warm.run(command(model_folder, data_file, out, job), moment)
            if ended.code == 0:
                break
            assert ended.code == KILLED, ended.text
            kills += 1
        assert outcome(out) == expected
        assert not list(out.glob(".*")), "leftovers"
        shutil.rmtree(out)
        return kills

    with ThreadPoolExecutor(2) as side_by_side:
        for kills in side_by_side.map(chain, range(CHAINS[architecture, job])):
            TALLY.made["killed in a step or while the disk is written"] += kills
            TALLY.resumed["killed in a step or while the disk is written"] += kills


def test_two_ranks_killed_in_the_first_collective_or_later_end_as_if_they_had_not_been(
    warm: Warm, model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    job = "LoRA with dropout, a checkpoint every other step"
    chance, out = random.Random(job), tmp_path / "killed"
    steady = warm.run_group(command(model_folder, data_file, tmp_path / "steady", job), 2, {})
    assert [one.code for one in steady] == [0, 0], steady[0].text
    events, moment, kills = steady[1].counts["collective"], 1, 0
    while True:
        rank = chance.randrange(2)
        ends = warm.run_group(
            command(model_folder, data_file, out, job), 2, {rank: Moment("collective", moment)}
        )
        if [one.code for one in ends] == [0, 0]:
            break
        assert ends[rank].code == KILLED, ends[rank].text
        # The other leaves by itself, with the code that asks for another start.
        assert ends[1 - rank].code == 128, ends[1 - rank].text
        TALLY.made["one of two ranks killed in a collective"] += 1
        kills += 1
        moment = chance.randint(2, events // 3)
    assert outcome(out) == outcome(tmp_path / "steady")
    TALLY.resumed["one of two ranks killed in a collective"] += kills
