"""What keeps a job from starting, told where its user looks, and how it goes on once that is mended."""

from __future__ import annotations

import json
import signal
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kube import Namespace, Release, until

pytestmark = pytest.mark.cluster

ONE_STEP = ("--set", "distributed.workers=1,distributed.train.maxSteps=2,distributed.doEval=false")


def events(space: Namespace) -> str:
    return space.kubectl("get", "events", "-o", "custom-columns=:.reason,:.message")


def waiting_reasons(release: Release) -> set[str]:
    states = [
        status["state"].get("waiting", {}).get("reason")
        for pod in release.workers().values()
        for status in pod["status"].get("containerStatuses", ())
    ]
    return {reason for reason in states if reason}


def test_an_image_that_is_not_there(new_namespace: Callable[[], Namespace], tiny_job: Path) -> None:
    space = new_namespace()
    release = Release("image", space)
    values = ("-f", str(tiny_job / "values.yaml"), *ONE_STEP)
    image = yaml.safe_load(space.values.read_text())["image"]["name"]
    # Helm lets --set win over the cluster's own values.
    release.install(*values, "--set", f"image.name={image}-nowhere,image.digest=null")
    until(
        lambda: waiting_reasons(release) & {"ErrImagePull", "ImagePullBackOff"}, "the image missed", minutes=3
    )
    assert f"{image}-nowhere" in events(space)
    release.upgrade(*values, "--set", "replaceRunningJob=true")
    release.upload(tiny_job)
    until(lambda: len(release.jobs()) == 1, "the job without an image gone", minutes=2)
    release.wait_for("Succeeded", minutes=5)
    release.uninstall()


def test_a_claim_that_stays_pending(new_namespace: Callable[[], Namespace], tiny_job: Path) -> None:
    space = new_namespace()
    release = Release("claim", space)
    told = release.install(
        "-f", str(tiny_job / "values.yaml"), *ONE_STEP, "--set", "storage.storageClassName=no-such-class"
    )
    assert "Pending: its storage class has to exist" in told
    until(lambda: "no-such-class" in events(space), "the class missed", minutes=2)
    release.uninstall()
    space.kubectl("delete", "pvc", "--all", "--wait=false")
    until(lambda: not space.get("pods,pvc,pytorchjobs")["items"], "nothing left", minutes=2)


def test_a_quota_holds_the_workers_back(new_namespace: Callable[[], Namespace], tiny_job: Path) -> None:
    space = new_namespace()
    release = Release("quota", space)
    # Room for the data-access pod alone.
    space.kubectl("create", "quota", "few", "--hard=pods=1")
    release.install("-f", str(tiny_job / "values.yaml"), *ONE_STEP, "--set", "distributed.workers=2")
    until(lambda: "exceeded quota" in events(space), "the quota told", minutes=2)
    space.kubectl("delete", "quota", "few")
    release.upload(tiny_job)
    release.wait_for("Succeeded", minutes=5)
    release.uninstall()


TOKEN = "hf_NotARealTokenButOfItsLength"
HARDENED = """
set -e
test "$(id -u)" = 12345
test "$(cat "$HF_TOKEN_PATH")" = "$1"
echo written > "$HF_HOME/cache"
! touch /workspace/written /opt/venv/written 2>/dev/null
! env | grep "$1"
! ls /var/run/secrets/kubernetes.io
grep "NoNewPrivs.*1" /proc/self/status
grep "CapBnd.*0000000000000000" /proc/self/status
"""


def test_any_user_id_and_a_token_that_is_a_file(
    new_namespace: Callable[[], Namespace], tiny_job: Path
) -> None:
    space = new_namespace()
    release = Release("user", space)
    # As `echo TOKEN | base64` leaves it, with a line break inside.
    token = b64encode(f"{TOKEN}\n".encode()).decode()
    more = f"securityContext.runAsUser=12345,secret.encodedToken={token}"
    release.install("-f", str(tiny_job / "values.yaml"), *ONE_STEP, "--set", more)
    pod = release.worker(0)
    space.kubectl("wait", f"pod/{pod}", "--for=condition=Ready", "--timeout=4m")
    space.kubectl("exec", pod, "--", "sh", "-c", HARDENED, "sh", TOKEN)
    release.upload(tiny_job)
    release.wait_for("Succeeded", minutes=5)
    assert TOKEN not in release.logs() + space.kubectl("get", "pytorchjobs,configmaps,pods", "-o", "yaml")
    release.uninstall()
    assert not space.get("secrets", "-l", f"app.kubernetes.io/instance={release.name}")["items"]


def test_a_backend_that_the_image_lacks(
    new_namespace: Callable[[], Namespace], tiny_job: Path, cluster: Path | None
) -> None:
    if cluster is None:
        pytest.skip("only the test cluster's image is known to have no ccl")
    release = Release("backend", new_namespace())
    two = ("--set", "distributed.workers=2,distributed.train.ddpBackend=ccl")
    release.install("-f", str(tiny_job / "values.yaml"), *ONE_STEP, *two)
    # Before it waits for data.
    until(lambda: release.condition() == "Failed", "given up", minutes=5)
    assert "distributed.train.ddpBackend: ccl" in release.last_words(), release.told()
    release.uninstall()


def test_too_little_memory_is_named(new_namespace: Callable[[], Namespace], tiny_job: Path) -> None:
    release = Release("memory", new_namespace())
    # Less than torch takes; about as much would be read from the disk again and again instead of a kill.
    release.install(
        "-f",
        str(tiny_job / "values.yaml"),
        *ONE_STEP,
        "--set",
        "resources.memoryLimit=128Mi,elasticPolicy.maxRestarts=1",
    )
    release.upload(tiny_job)
    until(lambda: release.condition() == "Failed", "given up", minutes=8)
    words = release.last_words()
    assert "memory" in words, release.told()
    assert "resources.memoryLimit" in words, release.told()
    release.uninstall()


def test_two_releases_side_by_side(new_namespace: Callable[[], Namespace], tiny_job: Path) -> None:
    space = new_namespace()
    # As long as Helm allows, and different only at the end.
    releases = [Release("a" * 52 + end, space) for end in "xy"]
    for release in releases:
        release.install("-f", str(tiny_job / "values.yaml"), *ONE_STEP)
    for release in releases:
        release.upload(tiny_job)
    for release in releases:
        release.wait_for("Succeeded", minutes=6)
    releases[0].uninstall()
    assert releases[1].condition() == "Succeeded"
    assert releases[1].on_volume("ls output/saved_model/adapter_model.safetensors")
    releases[1].uninstall()


def test_what_the_image_runs_by_itself_is_below_an_init(space: Namespace) -> None:
    """Process 1 hears no signal that it does not handle: a command would last until it is killed."""
    image = yaml.safe_load(space.values.read_text())["image"]
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "image",
        "image": f"{image['name']}:{image['tag']}",
        "args": ["sh", "-c", "cat /proc/1/comm; exec sleep infinity"],
        "securityContext": {**restricted, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    pod = {"metadata": {"name": "image"}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    space.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}))
    until(lambda: space.get("pod", "image")["status"]["phase"] == "Running", "a running pod", minutes=5)
    until(lambda: "tini" in space.kubectl("logs", "image"), "process 1's name in the log", minutes=1)
    space.kubectl("exec", "image", "--", "sh", "-c", "kill -TERM 1")
    until(lambda: space.get("pod", "image")["status"]["phase"] == "Failed", "the pod's end", minutes=1)
    (status,) = space.get("pod", "image")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 128 + signal.SIGTERM
    space.kubectl("delete", "pod", "image")
