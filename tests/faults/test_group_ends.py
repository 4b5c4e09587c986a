"""How a job ends: exit codes, last words, restarts that are counted, signals."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pods import Pods

from cli_runner import SCRIPTS
from stand_in_hub import MARK, SECRET, TOKEN, found_in, stand_in_hub

Make = Callable[..., Pods]
TOLD = 128 + signal.SIGTERM


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_broken_data_ends_all_pods_once_with_its_code_and_words(
    job: Make, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setenv("FAULTS", f"{rank}:4:data")
    pods = job(3)
    pods.start()
    assert pods.finish() == {0: 3, 1: 3, 2: 3}
    for number in range(3):
        assert pods.last_words(number).rstrip().endswith("data.json: row 7: no 'output'")
        assert f"rank {rank}" in pods.last_words(number)
        assert pods[number].codes == []
    assert pods.rounds()["failures"] == 0
    (log,) = (pods.out / "logs" / "round-1").glob(f"rank-{rank}.err.log")
    assert "data.json: row 7" in log.read_text()


def test_a_defect_ends_all_pods_with_its_last_line(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS", "1:4:defect")
    pods = job()
    pods.start()
    assert pods.finish() == {0: 1, 1: 1}
    assert "ValueError: a defect" in pods.last_words(0)


def test_settings_that_are_wrong_end_a_pod_before_anything_starts(job: Make) -> None:
    pods = job(script="/workspace/scripts/mine.py")
    pods.start()
    assert pods.finish() == {0: 2, 1: 2}
    assert "distributed.script: there is no file /workspace/scripts/mine.py" in pods.last_words(1)


def test_what_only_worker_0_meets_is_told_to_all(job: Make) -> None:
    """The other is there already, and waits for it."""
    pods = job(train__datasetName=None, train__dataFile="DATA")
    file = pods.folder / "data.parquet"
    pods.settings_file.write_text(pods.settings_file.read_text().replace("DATA", str(file)))
    pods.arguments = ["--upload-timeout-minutes", "0.01"]
    file.write_bytes(b"PAR1")
    os.utime(file, (0, 0))
    pods.start(1)
    pods.until_said(1, "threads for each")
    file.unlink()
    pods.start(0)
    assert pods.finish() == {0: 3, 1: 3}
    for number in range(2):
        assert f"{file} is not there yet" in pods.last_words(number)


def test_more_failures_than_allowed_end_the_job_over_all_pods(
    job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two is the leader's own death: the count is on the volume."""
    monkeypatch.setenv("FAULTS", "1:8:kill!")
    pods = job(restarts=2, lostWorkerTimeoutMinutes=3)
    pods.start()
    pods.until_step(4)
    pods.kill(0)
    assert pods.finish() == {0: 6, 1: 6}
    assert "gave up after 2 restarts (elasticPolicy.maxRestarts)" in pods.last_words(1)
    assert "ended by SIGKILL" in pods.last_words(1)
    monkeypatch.delenv("FAULTS")
    pods.start()  # the same job, started again by its user, counts anew
    assert pods.finish() == {0: 0, 1: 0}


@pytest.mark.parametrize("number", [0, 1])
def test_a_drained_pod_leaves_in_order_and_costs_no_restart(job: Make, number: int) -> None:
    pods = job(lostWorkerTimeoutMinutes=3, restarts=1)
    pods.start()
    pods.until_step(random.randint(3, 20))
    pods.drain(number)
    assert pods.finish() == {0: 0, 1: 0}
    assert pods[number].codes == [TOLD]
    assert "stopped by SIGTERM" in pods.said(number)
    assert pods.step() == 40
    assert pods.rounds()["failures"] == 0


@pytest.fixture
def deaf_program(tmp_path: Path) -> str:
    """A script of ranks that hear no SIGTERM."""
    program = tmp_path / "deaf.py"
    program.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n"
        "time.sleep(1000)\n"
    )
    return str(program)


def test_a_second_signal_leaves_at_once(job: Make, deaf_program: str) -> None:
    pods = job(1, script=deaf_program)
    pods.arguments = ["--grace-seconds", "1000"]
    pods.start()
    pods.until_said(0, "deaf")
    pods[0].process.terminate()
    pods.until_said(0, "stopping")
    pods[0].process.terminate()
    assert pods.finish(operating=False) == {0: TOLD}


def test_the_grace_period_is_the_pods(job: Make, deaf_program: str) -> None:
    """Ranks that need longer than torch's 30 s are not killed, and those that never leave are."""
    pods = job(1, script=deaf_program)
    pods.arguments = ["--grace-seconds", "2"]
    pods.start()
    pods.until_said(0, "deaf")
    pods[0].process.terminate()
    assert pods.finish(operating=False) == {0: TOLD}


def test_a_stranger_and_a_worker_of_other_settings_are_turned_away(job: Make, tmp_path: Path) -> None:
    pods = job()
    pods.start(0)
    pods.until_said(0, "threads for each")
    with socket.create_connection(("localhost", pods.port)) as stranger:
        stranger.sendall(b'{"hello": 3}\nGET /\xff HTTP/1.1\r\n\r\n')
    with Pods(tmp_path / "other", 2) as other:
        other.port = pods.port
        other.start(1)
        assert other.finish(operating=False) == {1: 128}
        assert "has other settings than the coordinator" in other.last_words(1)
    pods.start(1)
    assert pods.finish() == {0: 0, 1: 0}


def test_another_jobs_pods_may_save_before_this_job_begins(job: Make) -> None:
    pods = job(1)
    pods.state.mkdir(parents=True)
    other = pods.state / "heartbeat-earlier-worker-0.json"
    other.write_text(json.dumps({"step": 5, "used_bytes": 1, "limit_bytes": 4}))
    pods.start()
    pods.until_said(0, f"waiting until another job has left {pods.out}: earlier-worker-0")
    os.utime(other)
    assert "round 1 begins" not in pods.said(0)
    assert pods.finish() == {0: 0}


def test_data_that_comes_late_is_waited_for(job: Make) -> None:
    pods = job(2, train__datasetName=None, train__dataFile="DATA")
    file = pods.folder / "data.jsonl"
    content = json.loads(pods.settings_file.read_text().replace("DATA", str(file)))
    pods.settings_file.write_text(json.dumps(content))
    pods.arguments = ["--data-pod", "data-0", "--namespace", "team"]
    pods.start()
    pods.until_said(1, f"kubectl -n team cp 'data.jsonl' 'data-0:{file}'")
    file.write_text('{"instruction": "a", "output": "b"}\n')
    assert pods.finish() == {0: 0, 1: 0}
    assert pods[0].codes == []


def test_process_1_forwards_signals_and_reaps_orphans(job: Make, tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: time.sleep(0.2)\n"  # an orphan, which ends as one of process 1
        "    os._exit(0)\n"
        "os.wait(); time.sleep(1); print('waiting', flush=True); time.sleep(1000)\n"
    )
    pods = job(1, script=str(program))
    pods.start(0, prefix=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
    pods.until_said(0, "waiting")
    (init,) = pods.children_of(pods[0].process.pid)
    (launcher,) = pods.children_of(init)  # and no zombie beside it
    assert pods.children_of(launcher)
    os.kill(init, signal.SIGTERM)
    assert pods.finish(operating=False) == {0: TOLD}
    assert "stopped by SIGTERM" in pods.last_words(0)


def test_a_download_that_breaks_off_leaves_no_token_in_logs_last_words_or_process_lists(
    job: Make, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv(MARK, "1")
    with stand_in_hub("breaks off") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        script = {"script": str(SCRIPTS / "finetune.py"), "logLevel": "debug"}
        values = {"modelNameOrPath": "somebody/gated", "train__datasetName": None}
        pods = job(1, **script, **values, train__dataFile=str(data_file))
        pods.start()
        assert pods.finish() == {0: 4}
    assert f"Bearer {TOKEN}" in hub.given
    assert not hub.in_processes
    assert "somebody/gated" in pods.last_words(0)
    assert SECRET not in pods.said(0) + pods.last_words(0)
    assert list((pods.out / "logs").rglob("*.log"))
    assert not found_in(tmp_path, but=home / "token")
