"""What a cluster does to a running job: it loses steps, never the run.

One job lives through all of it, a fault after another.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kube import Namespace, Release, sh, until

pytestmark = pytest.mark.cluster

SAVE_STEPS = 5
SLOW = [
    *("--set", "distributed.workers=2,elasticPolicy.maxRestarts=20,backoffLimit=null"),
    *("--set", "distributed.train.maxSteps=5000,distributed.train.saveStrategy=steps"),
    *("--set", f"distributed.train.saveSteps={SAVE_STEPS},distributed.train.loggingSteps=1"),
    *("--set", "distributed.train.gradientAccumulationSteps=4,distributed.stallTimeoutMinutes=0.5"),
]


@pytest.fixture(scope="module")
def running(space: Namespace, tiny_job: Path) -> Release:
    """A job of two workers that has trained its first steps."""
    release = Release("faults", space)
    release.install("-f", str(tiny_job / "values.yaml"), *SLOW)
    release.upload(tiny_job)
    release.wait_for("Running", minutes=8)
    until(lambda: newest_step(release), "first checkpoint", minutes=5)
    return release


def newest_step(release: Release) -> int:
    """The step of the newest whole checkpoint on the volume."""
    files = release.on_volume("ls output/saved_model/checkpoint-*/manifest.json 2>/dev/null || true")
    return max(map(int, re.findall(r"checkpoint-(\d+)/manifest", files)), default=0)


def goes_on(release: Release, fault: Callable[[], object]) -> None:
    """After the fault the job saves newer checkpoints than before, and has not failed."""
    before = newest_step(release)
    fault()
    until(lambda: newest_step(release) >= before + 2 * SAVE_STEPS, f"steps after {before}", minutes=6)
    assert release.condition() in {"Running", "Restarting"}, release.told()


@pytest.mark.parametrize("number", [1, 0])
def test_a_worker_that_is_deleted_comes_back(running: Release, number: int) -> None:
    goes_on(running, lambda: running.space.kubectl("delete", "pod", running.worker(number), "--wait=false"))


def test_a_killed_process_is_started_again(running: Release) -> None:
    goes_on(running, lambda: signal_rank(running, signal.SIGKILL))


def signal_rank(running: Release, number: signal.Signals) -> None:
    """Sends a signal to the rank of worker 1."""
    program = ("python", "-c", SIGNAL_RANK, str(number.value))
    running.space.kubectl("exec", running.worker(1), "--", *program)


SIGNAL_RANK = """
import os, sys
from pathlib import Path
for folder in Path("/proc").glob("[0-9]*"):
    if int(folder.name) != os.getpid() and b"finetune.py" in (folder / "cmdline").read_bytes():
        os.kill(int(folder.name), int(sys.argv[1]))
"""


def test_a_rank_that_is_stopped_holds_nobody_up(running: Release) -> None:
    goes_on(running, lambda: signal_rank(running, signal.SIGSTOP))
    assert re.search(r"rank 1 on \S+-worker-1 of 2 made no progress for 0\.5 min", running.logs())


STOP_LAUNCHER = f"""
import os
from pathlib import Path
for folder in Path("/proc").glob("[0-9]*"):
    if (folder / "stat").read_text().rpartition(")")[2].split()[1] == "1":
        os.kill(int(folder.name), {signal.SIGSTOP.value})
        break
"""


def test_a_launcher_that_is_stopped_is_started_again(running: Release) -> None:
    """Its pod's process 1 ends it; the others, and the operator, see a pod that runs."""
    worker = running.worker(0)

    def stop() -> None:
        before = running.workers()[worker]["metadata"]["uid"]
        running.space.kubectl("exec", worker, "--", "python", "-c", STOP_LAUNCHER)
        until(
            lambda: running.workers().get(worker, {}).get("metadata", {}).get("uid", before) != before,
            "another worker 0",
            minutes=4,
        )

    goes_on(running, stop)


def test_a_killed_container_is_started_again(running: Release, cluster: Path | None) -> None:
    if cluster is None:
        pytest.skip("only the test cluster's containers can be killed from outside")

    def kill() -> None:
        pod = running.workers()[running.worker(0)]
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        node = pod["spec"]["nodeName"].removeprefix("node-")
        sh(str(cluster), "ctr", node, "tasks", "kill", "-s", "SIGKILL", container)

    goes_on(running, kill)


def test_the_operator_may_be_restarted(running: Release) -> None:
    operator = ["-n", "kubeflow", "deployment/training-operator"]

    def restart() -> None:
        sh("kubectl", "rollout", "restart", *operator)
        running.space.kubectl("delete", "pod", running.worker(1), "--wait=false")
        sh("kubectl", "rollout", "status", *operator, "--timeout=120s")

    goes_on(running, restart)


def test_a_minute_without_the_api_server(running: Release, cluster: Path | None) -> None:
    if cluster is None:
        pytest.skip("only the test cluster's API server can be stopped")

    def stop_for_a_minute() -> None:
        pid = int((Path(os.environ["KUBECONFIG"]).parent / "pid" / "kube-apiserver").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(AssertionError):
                sh("kubectl", "get", "--raw", "/readyz", "--request-timeout=10s")
            time.sleep(50)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: sh("kubectl", "get", "--raw", "/readyz"), "API server", minutes=2)

    goes_on(running, stop_for_a_minute)


def test_a_drained_node_gives_its_workers_to_another(running: Release) -> None:
    nodes = json.loads(sh("kubectl", "get", "nodes", "-o", "json"))["items"]
    if len(nodes) < 2:
        pytest.skip("needs two nodes")
    node = running.workers()[running.worker(1)]["spec"]["nodeName"]

    def drain() -> None:
        sh("kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", timeout_seconds=400)

    try:
        goes_on(running, drain)
    finally:
        sh("kubectl", "uncordon", node)


def test_every_step_was_taken_once(running: Release) -> None:
    """A step that a fault undid is told once, as it was taken in the end."""
    newest = newest_step(running)
    state = running.on_volume(f"cat output/saved_model/checkpoint-{newest}/trainer_state.json")
    steps = [entry["step"] for entry in json.loads(state)["log_history"] if "loss" in entry]
    assert steps == list(range(1, newest + 1))
    running.uninstall()
