"""The leader tells every worker how the job ends."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from llm_finetune.errors import RestartsError
from llm_finetune.launcher.coordinator import Coordinator, WorkerLimits
from llm_finetune.launcher.coordinator_client import CoordinatorClient
from llm_finetune.launcher.coordinator_server import CoordinatorServer
from llm_finetune.launcher.pod_heartbeats import PodHeartbeats
from llm_finetune.launcher.restart_state import RestartState
from llm_finetune.runtime.outcome import Outcome
from llm_finetune.storage.json_files import read_json

NAME = "job-worker-0"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_of_two_workers_of_one_name_the_older_leaves() -> None:
    """Where an unreachable node comes back, its pod still runs."""
    port = _free_port()
    workers = CoordinatorServer(port, "settings")
    older, newer = (CoordinatorClient(NAME, ("127.0.0.1", port), "settings", 20) for _ in range(2))
    told: list[object] = []
    waiting = threading.Thread(target=lambda: told.append(older.next()), daemon=True)
    waiting.start()
    assert workers.next(20)
    threading.Thread(target=newer.next, daemon=True).start()
    assert workers.next(20)
    waiting.join(20)
    assert isinstance(told[0], Outcome)
    assert (told[0].exit_code, "another job-worker-0 came" in told[0].message) == (128, True)
    assert workers.next(2) is None  # of the line that was replaced
    assert workers.here == {NAME}


def test_a_verdict_is_kept_for_workers_that_come_later(tmp_path: Path) -> None:
    """A pod that was killed in its last round is judged by the next one, while that still waits for data."""
    rounds = tmp_path / "rounds.json"
    RestartState(rounds, NAME, allowed=0).begin()
    port = _free_port()
    limits = WorkerLimits(wanted=1, least=1, most=1, patience_seconds=20, lost_seconds=20, grace_seconds=20)
    leader = Coordinator(
        NAME,
        CoordinatorServer(port, "settings"),
        limits,
        RestartState(rounds, NAME, allowed=0),
        PodHeartbeats(tmp_path),
    )
    while not (read_json(rounds) or {}).get("over"):
        time.sleep(0.01)
    verdict = CoordinatorClient(NAME, ("127.0.0.1", port), "settings", 20).next()
    assert isinstance(verdict, Outcome)
    assert verdict.exit_code == RestartsError.exit_code
    assert "resources.memoryLimit" in verdict.message
    leader.wait(20)
