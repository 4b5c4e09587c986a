"""Processes that live and do nothing: the others notice, say which, and the job goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pods import Pods

from cli_runner import assignments
from minimal_settings import PLAIN
from process_pool import Warm, ended, in_step, reached
from stand_in_ccl import write_stand_in

Make = Callable[..., Pods]
LIMIT_MINUTES = 0.15  # far above what a busy machine takes to say a word


@pytest.mark.parametrize("fault", ["0:8:hang", "1:8:hang", "0:8:stop", "1:8:stop"])
def test_a_rank_that_stands_still_is_named_and_the_group_starts_again(
    job: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It hangs by itself, or is stopped as a whole (SIGSTOP): then it answers nothing at all."""
    monkeypatch.setenv("FAULTS", fault)
    rank = int(fault[0])
    pods = job(stallTimeoutMinutes=LIMIT_MINUTES, shutdownGraceSeconds=2)
    pods.start()
    assert pods.finish() == {0: 0, 1: 0}
    assert re.search(
        rf"rank {rank} on \S+ (and rank 1 on \S+ )?of 2 made no progress for 0.15 min",
        pods.said(0) + pods.said(1),
    )
    assert pods.rounds()["failures"] == 1
    assert pods[0].codes == pods[1].codes == []
    assert "step 7/40 with 2" in pods.said(0).split("round 2 begins")[0]
    assert "step 40/40 with 2" in pods.said(0)


@pytest.mark.parametrize("fault", ["0:8:hang", "0:8:stop"])
def test_a_rank_without_peers_that_stands_still_is_started_again(
    job: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("FAULTS", fault)
    pods = job(1, stallTimeoutMinutes=LIMIT_MINUTES, shutdownGraceSeconds=2)
    pods.start()
    assert pods.finish() == {0: 0}
    words = {"0:8:hang": "made no progress for", "0:8:stop": "has been stopped (SIGSTOP) for"}
    assert words[fault] in pods.said(0)
    assert pods.rounds()["failures"] == 1
    assert "step 40/40 with 1" in pods.said(0)


def test_ccl_that_waits_for_a_rank_that_does_nothing_is_ended(
    job: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a stand-in for oneCCL's bindings: from the ninth all-reduce on rank 1 sleeps, rank 0 waits."""
    spell = 'calls > 8 and (os.environ["RANK"] == "1") and time.sleep(1000)'
    monkeypatch.setenv("PYTHONPATH", str(write_stand_in(tmp_path / "packages", spell)), prepend=os.pathsep)
    limits = {"stallTimeoutMinutes": LIMIT_MINUTES, "shutdownGraceSeconds": 2}
    pods = job(2, train__ddpBackend="ccl", restarts=0, **limits)
    pods.start()
    assert pods.finish() == {0: 6, 1: 6}
    assert "rank 1 on localhost-1 of 2 made no progress for 0.15 min" in pods.last_words(0)
    assert re.search("do(es)? nothing, after step", pods.last_words(0))


def test_a_launcher_that_is_stopped_is_ended_by_process_1(tmp_path: Path) -> None:
    """Its ranks go with it, and Kubernetes starts the pod again."""
    program = tmp_path / "stops.py"
    program.write_text(
        "import os, signal, sys\n"
        "from llm_finetune.launcher.pid1 import under_init\n"
        "def main():\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    return 0\n"
        "sys.exit(under_init(main, lambda number: print('killed by', number, flush=True), 0.5))\n"
    )
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = run_or_skip([*prefix, sys.executable, str(program)])
    assert done.returncode == 128 + signal.SIGKILL
    assert "killed by 9" in done.stdout


def run_or_skip(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr:
        pytest.skip("process namespaces need root")
    return done


@pytest.mark.parametrize("how", ["hangs", "is stopped"])
def test_a_training_that_a_rank_held_up_ends_as_if_it_had_not_been(
    warm: Warm, model_folder: Path, data_file: Path, tmp_path: Path, how: str
) -> None:
    """The real one: rank 0 keeps the last finished step, both leave with 128, and nothing is lost."""

    def command(out: Path) -> list[str]:
        where = {
            "modelNameOrPath": str(model_folder),
            "train__dataFile": str(data_file),
            "train__outputDir": str(out),
            "train__loraDropout": 0.1,
            "train__maxSteps": 5,
            "doEval": False,
            "stallTimeoutMinutes": LIMIT_MINUTES,
            "shutdownGraceSeconds": 20,
        }
        return ["run", *assignments(**{**PLAIN, **where})]

    steady = warm.run_group(command(tmp_path / "steady"), 2, {})
    assert [one.code for one in steady] == [0, 0], steady[0].text
    first, second = warm.start_group(command(tmp_path / "held"), 2, {1: in_step(3, "waits")})
    reached(*second)
    assert second[0].pid
    if how == "is stopped":
        os.kill(second[0].pid, signal.SIGSTOP)
    left = ended(*first)
    assert left.code == 128, left.text
    assert "rank 1 on" in left.text
    assert "made no progress for 0.15 min (distributed.stallTimeoutMinutes)" in left.text
    if how == "is stopped":  # here no launcher ends it
        os.kill(second[0].pid, signal.SIGKILL)
    assert ended(*second).code in (128, -signal.SIGKILL)
    again = warm.run_group(command(tmp_path / "held"), 2, {})
    assert [one.code for one in again] == [0, 0], again[0].text
    assert "step 2/5" not in again[0].text  # it was kept
    assert "step 3/5" in again[0].text
    weights = [next((tmp_path / out).glob("*.safetensors")).read_bytes() for out in ("steady", "held")]
    assert weights[0] == weights[1]
