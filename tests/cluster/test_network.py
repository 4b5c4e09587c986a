"""A stranger in another pod is turned away, the workers meet, and the job's secret outlives an upgrade."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kube import Namespace, Release, until

pytestmark = pytest.mark.cluster

# Garbage, a hello without proof, one that trickles, and more connections than may wait.
ATTACK = """
import socket, sys, time
def call():
    return socket.create_connection((sys.argv[1], 23456), 10)
held = [call() for _ in range(300)]
hello = b'{"hello": {"name": "worker", "settings": ""}}\\n'
for said in (b"GET / HTTP/1.1\\r\\n\\r\\n", b"[" * 200_000 + b"\\n", hello):
    with call() as stranger:
        try:
            stranger.sendall(said)
            assert stranger.recv(1000) == b"", said[:20]
        except ConnectionError:
            pass
with call() as stranger:
    try:
        for _ in range(30):
            stranger.sendall(b"x")
            time.sleep(1)
    except ConnectionError:
        print("hung up on")
"""


def test_a_stranger_in_another_pod_is_turned_away_and_an_upgrade_keeps_the_secret(
    new_namespace: Callable[[], Namespace], tiny_job: Path
) -> None:
    space = new_namespace()
    release = Release("network", space)
    short = "distributed.train.maxSteps=4,distributed.doEval=false"
    values = ("-f", str(tiny_job / "values.yaml"), "--set", short)
    release.install(*values)
    worker = release.worker(0)
    until(lambda: worker in release.workers(), "worker 0", minutes=2)
    space.kubectl("wait", f"pod/{worker}", "--for=condition=Ready", "--timeout=4m")
    until(lambda: "threads for each" in release.logs(), "worker 0 has begun", minutes=2)
    assert "hung up on" in space.kubectl("exec", release.data_pod(), "--", "python", "-c", ATTACK, worker)

    def state() -> tuple[str, list[str]]:
        secret = space.get("secret", "network-llm-finetune-job-secret")["data"]["secret"]
        return secret, sorted(pod["metadata"]["uid"] for pod in release.workers().values())

    before = state()
    release.upgrade(*values)
    assert state() == before
    release.upload(tiny_job)
    release.wait_for("Succeeded", minutes=6)
    assert "port 23456: turned away" in release.logs()
    assert "has no secret" not in release.logs()
    assert before[0] not in release.logs() + space.kubectl("get", "pytorchjobs,configmaps,pods", "-o", "yaml")
    release.uninstall()
