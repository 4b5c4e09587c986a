"""Signs of life: written by a rank, taken away by its launcher, and what one that stays tells."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from llm_finetune.distributed import Ranks
from llm_finetune.errors import GroupError
from llm_finetune.launcher import pod_heartbeats
from llm_finetune.launcher.pod_heartbeats import PodHeartbeats
from llm_finetune.runtime import heartbeat

ONE = Ranks(0, 1, 0, 1)
SHORT = {"step": 120, "used_bytes": 3_900_000_000, "limit_bytes": 4_000_000_000}


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


def test_a_rank_gives_signs_while_it_runs_and_the_launcher_takes_them_away(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat-worker-1.json"
    with PodHeartbeats(tmp_path).of_ranks("worker-1"):
        heartbeat.record_step(7)
        with heartbeat.rank_heartbeat(ONE):
            wait_for(file)
        sign = heartbeat.read(file)
        assert sign
        assert sign.step == 7
        assert 0 < sign.memory.used_bytes < sign.memory.limit_bytes
    assert list(tmp_path.iterdir()) == []


def test_without_a_launcher_there_are_no_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with heartbeat.rank_heartbeat(ONE):
        assert threading.active_count() >= 1
    assert list(tmp_path.iterdir()) == []


def test_a_sign_that_stays_says_whether_it_was_memory(tmp_path: Path) -> None:
    killed = PodHeartbeats(tmp_path)
    assert killed.last("worker-1") == killed.left() == ""
    file = tmp_path / "heartbeat-worker-1.json"
    file.write_text(json.dumps(SHORT))
    said = killed.last("worker-1")
    assert said.startswith(
        ", last seen after step 120, with 3.9 of 4.0 GB of memory; it was probably killed for memory"
    )
    assert "resources.memoryLimit" in said
    file.write_text(json.dumps({**SHORT, "used_bytes": 1_000_000_000, "step": 0}))
    assert killed.left() == "; worker-1, last seen before the first step, with 1.0 of 4.0 GB of memory"
    file.write_text('{"step": 3')  # cut short by the kill
    assert killed.last("worker-1") == ""


def test_another_job_that_has_fallen_silent_is_not_waited_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_heartbeats, "SILENT_SECONDS", 0.5)
    for pod in ("job-worker-1", "earlier-worker-0"):
        (tmp_path / f"heartbeat-{pod}.json").write_text(json.dumps(SHORT))
    PodHeartbeats(tmp_path).await_other_job("job-worker-", 60.0)
    assert [file.name for file in tmp_path.iterdir()] == ["heartbeat-job-worker-1.json"]


def test_another_job_that_goes_on_is_named(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat-earlier-worker-0.json"
    file.write_text(json.dumps(SHORT))
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.1):
            os.utime(file)

    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(GroupError, match="another job's, which still runs: earlier-worker-0"):
            PodHeartbeats(tmp_path).await_other_job("job-worker-", 2.0)
    finally:
        over.set()
        living.join()
