"""A job that is told to stop keeps its last finished step, wherever it is, and says how to go on."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from llm_finetune.checkpoints import directories
from process_pool import Moment, Warm, ended, in_step, signaled

IN_THE_BACKWARD_PASS_OF_STEP_6 = in_step(6, "hangs")
IN_THE_OPTIMIZER_OF_STEP_6 = replace(in_step(6), number=in_step(6).number + 2)


@pytest.fixture
def run(lora_run: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return partial(lora_run, train__maxSteps=9)


def weights(out: Path) -> bytes:
    return (out / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_the_last_finished_step_is_kept_in_the_middle_of_a_step_that_never_ends(
    number: int, code: int, warm: Warm, run: Callable[..., list[str]], tmp_path: Path
) -> None:
    stopped = signaled(*warm.start(run(tmp_path / "stopped"), IN_THE_BACKWARD_PASS_OF_STEP_6), number)
    assert stopped.code == code, stopped.text
    assert "rerun the same command" in stopped.text
    assert "Traceback" not in stopped.text
    assert directories.newest_whole(tmp_path / "stopped") == "checkpoint-5"
    assert warm.run(run(tmp_path / "stopped")).code == 0
    assert warm.run(run(tmp_path / "steady")).code == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "steady")


def test_the_start_after_a_kill_says_that_there_was_one_and_whether_memory_was_short(
    warm: Warm, run: Callable[..., list[str]], tmp_path: Path
) -> None:
    options, sign = run(tmp_path / "out"), tmp_path / "out" / ".heartbeat.json"
    told = "the previous run was killed"
    assert warm.run(options, IN_THE_OPTIMIZER_OF_STEP_6).code == -signal.SIGKILL
    assert sign.is_file()
    again = signaled(*warm.start(options, IN_THE_BACKWARD_PASS_OF_STEP_6), signal.SIGTERM)
    # It is seen every few seconds: on a busy machine between some of its steps too.
    assert re.search(rf"{told}, last seen (before the first step|after step \d), with ", again.text), (
        again.text
    )
    assert "killed for memory" not in again.text
    assert not sign.exists(), "it has said why it ended"
    sign.write_text(json.dumps({"step": 7, "used_bytes": 9_000_000_000, "limit_bytes": 10_000_000_000}))
    last = warm.run(options)
    assert last.code == 0, last.text
    assert f"{told}, last seen after step 7, with 9.0 of 10.0 GB of memory; it was probably" in last.text
    assert not sign.exists()


def test_a_second_signal_leaves_at_once(warm: Warm, run: Callable[..., list[str]], tmp_path: Path) -> None:
    # The first signal's checkpoint hangs in its first file.
    hanging = Moment("saving", 1, "hangs")
    options = run(tmp_path / "out", train__saveStrategy="no")
    process, said = warm.start(options, hanging)
    while not (said.exists() and "step 2/9" in said.read_text()):
        assert process.is_alive()
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)
    left = signaled(process, said, signal.SIGTERM)
    assert left.code == 143, left.text
    assert directories.newest_whole(tmp_path / "out") is None
    assert warm.run(options).code == 0


def test_the_signaled_rank_tells_the_writer(
    warm: Warm, run: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = run(tmp_path / "out")
    first, second = warm.start_group(options, 2, {1: IN_THE_BACKWARD_PASS_OF_STEP_6})
    told = signaled(*second, signal.SIGTERM)
    writer = ended(*first)
    assert (told.code, writer.code) == (143, 143), told.text + writer.text
    assert "rank 1 was stopped by SIGTERM" in writer.text
    assert directories.newest_whole(tmp_path / "out") == "checkpoint-5"
    manifest = json.loads((tmp_path / "out" / "checkpoint-5" / "manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"]) == (5, 2)


def test_a_lost_peer_costs_the_step_that_was_under_way_and_no_more(
    warm: Warm, run: Callable[..., list[str]], tmp_path: Path
) -> None:
    writer, lost = warm.run_group(run(tmp_path / "out"), 2, {1: IN_THE_OPTIMIZER_OF_STEP_6})
    assert lost.code == -signal.SIGKILL
    assert writer.code == 128, writer.text
    assert "rank 1 of 2 is lost" in writer.text
    # Its own optimizer step may be through by the time it hears of the death.
    assert directories.newest_whole(tmp_path / "out") in ("checkpoint-5", "checkpoint-6")
