"""Jobs killed and told to stop after the training: what is done is kept, and what is not is done again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tally import TALLY

from cli_runner import assignments
from llm_finetune.quantization.quantized_model import load_quantized
from minimal_settings import PLAIN
from process_pool import Moment, Warm, ended, go_on, reached, signaled

KILLED = -signal.SIGKILL
KIND = "killed after the training"
STAGES = ("train", "evaluate", "quantize", "benchmark", "report")
EVENTS = {"evaluate": "judging", "quantize": "quantizing", "benchmark": "measuring", "report": "reporting"}
NOT_YET_DONE, DONE = Moment("finishing", 1), Moment("finishing", 2)  # before and after it is written down
GONE_SECONDS = 30


@pytest.fixture
def run(model_folder: Path, data_file: Path) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        values: dict[str, Any] = {
            "modelNameOrPath": str(model_folder),
            "train__dataFile": str(data_file),
            "train__outputDir": str(place / "out"),
            "train__maxSteps": 3,
            "train__saveStrategy": "no",
            "doQuantize": True,
            "quantize__outputDir": str(place / "quantized"),
            "doBenchmark": True,
            "benchmark__warmup": 1,
            "benchmark__iterations": 3,
            "benchmark__promptTokens": 8,
            "benchmark__coresPerInstance": 1,
        }
        return ["run", *assignments(**{**values, **PLAIN})]

    return build


def stages_done(place: Path) -> list[str]:
    return list(json.loads((place / "out" / "run.json").read_text())["stages"])


def check_whole(place: Path) -> None:
    """What stands under a final name can be read."""
    for file in (place / "out").glob("*.json"):
        json.loads(file.read_text())
    if (place / "quantized").exists():
        load_quantized(place / "quantized")
    report = place / "out" / "report.html"
    assert not report.exists() or report.read_text().endswith("</html>")


def content(place: Path) -> dict[str, bytes]:
    """The models, byte by byte, and what was said of them."""
    files = [place / "out" / "adapter_model.safetensors", place / "out" / "eval_results.json"]
    return {file.name: file.read_bytes() for file in [*files, *(place / "quantized").iterdir()]}


def moments_of(stage: str, counts: dict[str, int], chance: random.Random) -> list[Moment]:
    """One in the middle of the stage, and one on either side of the word that it is done.

    The benchmark takes too long for all three.
    """
    event = EVENTS.get(stage)
    within = [Moment(event, chance.randint(2, counts[event] // 2))] if event else []
    return [*within, DONE] if stage == "benchmark" else [*within, NOT_YET_DONE, DONE]


def instances(place: Path) -> list[str]:
    """The benchmark's processes that work on a model of this place."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except OSError:  # it ended meanwhile
            continue
        if "llm_finetune.inference_benchmark.instance" in words and any(str(place) in word for word in words):
            found.append(file.parent.name)
    return found


def test_killed_in_or_between_the_later_stages_a_run_does_what_is_left(
    warm: Warm, run: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    chance, steady, killed = random.Random("later stages"), tmp_path / "steady", tmp_path / "killed"
    whole = warm.run(run(steady))
    assert whole.code == 0, whole.text
    for done, stage in enumerate(STAGES):
        for moment in moments_of(stage, whole.counts, chance):
            gone = warm.run(run(killed), moment)
            TALLY.made[KIND] += 1
            assert gone.code == KILLED, (moment, gone.text)
            check_whole(killed)
            assert stages_done(killed) == list(STAGES[: done + (moment == DONE)]), (moment, gone.text)
    end = time.monotonic() + GONE_SECONDS
    while instances(killed):
        assert time.monotonic() < end, "an instance of the benchmark outlives its job"
        time.sleep(0.1)
    last = warm.run(run(killed))
    assert last.code == 0, last.text
    assert not any(last.counts[event] for event in ("step", *EVENTS.values()))
    assert content(killed) == content(steady)
    leftovers = [path for place in (killed, killed / "out") for path in place.glob(".*")]
    assert not leftovers
    TALLY.resumed[KIND] += TALLY.made[KIND]


def test_the_other_ranks_have_left_before_the_later_stages(
    warm: Warm, run: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    options = [*run(tmp_path), "--set", "distributed.doBenchmark=false"]
    first, other = warm.start_group(options, 2, {0: Moment("quantizing", 1, "waits")})
    reached(*first)
    assert ended(*other).code == 0
    go_on(first[1])
    assert ended(*first).code == 0
    assert stages_done(tmp_path) == ["train", "evaluate", "quantize", "report"]


def test_told_to_stop_while_it_writes_the_tuned_model_a_run_writes_it_first(
    warm: Warm, run: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """There is no checkpoint to go on from."""
    process, said = warm.start(run(tmp_path), Moment("leaving a model", 1, "waits"))
    reached(process, said)
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)
    go_on(said)
    stopped = ended(process, said)
    assert stopped.code == 128 + signal.SIGTERM, stopped.text
    assert "finished stages are preserved" in stopped.text
    assert stages_done(tmp_path) == ["train"]
    again = warm.run(run(tmp_path))
    assert again.code == 0, again.text
    assert not again.counts["step"]


def test_told_to_stop_after_the_training_a_run_says_what_is_kept_and_does_what_is_left(
    warm: Warm, run: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    stops = {
        Moment("judging", 3, "waits"): signal.SIGTERM,
        Moment("quantizing", 7, "waits"): signal.SIGINT,
        Moment("measuring", 3, "waits"): signal.SIGTERM,
        Moment("reporting", 2, "waits"): signal.SIGINT,
    }
    for moment, number in stops.items():
        stopped = signaled(*warm.start(run(tmp_path), moment), number)
        assert stopped.code == 128 + number, stopped.text
        (told,) = (line for line in stopped.text.splitlines() if line.startswith("error: "))
        assert told == (
            f"error: stopped by {number.name}; rerun the same command (without --fresh) to resume "
            "(finished stages are preserved)"
        )
        assert "Traceback" not in stopped.text
        assert not instances(tmp_path)
        check_whole(tmp_path)
        assert not [path for place in (tmp_path, tmp_path / "out") for path in place.glob(".*")]
    last = warm.run(run(tmp_path))
    assert last.code == 0, last.text
    assert not any(last.counts[event] for event in ("step", "judging", "quantizing", "measuring"))
