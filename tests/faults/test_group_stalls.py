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

from stand_in_ccl import write_stand_in

Make = Callable[..., Pods]
LIMIT_MINUTES = 0.05


@pytest.mark.parametrize("fault", ["0:8:hang", "1:8:hang", "0:8:stop", "1:8:stop"])
def test_a_rank_that_stands_still_is_named_and_the_group_starts_again(
    job: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It hangs by itself, or is stopped as a whole (SIGSTOP): then it answers nothing at all."""
    monkeypatch.setenv("FAULTS", fault)
    rank = int(fault[0])
    pods = job(stallTimeoutMinutes=LIMIT_MINUTES, leaveSeconds=2)
    pods.start()
    assert pods.finish() == {0: 0, 1: 0}
    assert re.search(rf"rank {rank} on \S+ of 2 stood still for 0.05 min", pods.said(0) + pods.said(1))
    assert pods.rounds()["failures"] == 1
    assert pods[0].codes == pods[1].codes == []
    assert "step 7/40 with 2" in pods.said(0).split("round 2 begins")[0]
    assert "step 40/40 with 2" in pods.said(0)


def test_ccl_that_waits_for_a_rank_that_does_nothing_is_ended(
    job: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a stand-in for oneCCL's bindings: from the ninth all-reduce on rank 1 sleeps, rank 0 waits."""
    spell = 'calls > 8 and (os.environ["RANK"] == "1") and time.sleep(1000)'
    monkeypatch.setenv("PYTHONPATH", str(write_stand_in(tmp_path / "packages", spell)), prepend=os.pathsep)
    pods = job(2, train__ddpBackend="ccl", restarts=0, stallTimeoutMinutes=LIMIT_MINUTES, leaveSeconds=2)
    pods.start()
    assert pods.finish() == {0: 6, 1: 6}
    assert "rank 1 on localhost-1 of 2 stood still for 0.05 min" in pods.last_words(0)
    assert "it does nothing, after step" in pods.last_words(0)


def test_a_launcher_that_is_stopped_is_ended_by_process_1(tmp_path: Path) -> None:
    """Its ranks go with it, and Kubernetes starts the pod again."""
    program = tmp_path / "stops.py"
    program.write_text(
        "import os, signal, sys\n"
        "from llm_finetune.launcher.init import under_init\n"
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
