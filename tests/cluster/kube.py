"""A namespace as its user sees it: through kubectl and helm."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

CHART = Path(__file__).parents[2]
MOUNT = "/tmp/pvc-mount"
Found = TypeVar("Found")


def sh(*command: str, stdin: str | None = None, timeout_seconds: float = 300) -> str:
    """Runs a command; what it printed, or an AssertionError with all that it said."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def until(found: Callable[[], Found | None], what: str, *, minutes: float) -> Found:
    """Asks again each second until there is an answer; AssertionError when there is none in time."""
    deadline = time.monotonic() + minutes * 60
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(1)
    raise AssertionError(f"not within {minutes} minutes: {what}")


@dataclass(frozen=True)
class Namespace:
    """A namespace of the cluster.

    Args:
        name: of the namespace.
        values: a values file with what is this cluster's own: image, storage class.
    """

    name: str
    values: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 300) -> str:
        return sh("kubectl", "-n", self.name, *arguments, stdin=stdin, timeout_seconds=timeout_seconds)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        done = subprocess.run(
            ["kubectl", "-n", self.name, "get", *arguments, "-o", "json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def bash(self, command: str, folder: Path, timeout_seconds: float = 300) -> str:
        """A command line as the user has it from NOTES.txt."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@dataclass(frozen=True)
class Release:
    """A release of the chart in a namespace."""

    name: str
    space: Namespace

    def install(self, *arguments: str) -> str:
        """`helm install`; what it printed, NOTES.txt in it."""
        return self._helm("install", *arguments)

    def upgrade(self, *arguments: str) -> str:
        return self._helm("upgrade", *arguments)

    def _helm(self, verb: str, *arguments: str) -> str:
        values = ["-f", str(self.space.values)]
        return sh("helm", verb, self.name, str(CHART), "-n", self.space.name, *values, *arguments)

    def uninstall(self) -> str:
        return sh("helm", "uninstall", self.name, "-n", self.space.name)

    def jobs(self) -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/instance={self.name}"
        return self.space.get("pytorchjobs", "-l", selector)["items"]  # type: ignore[no-any-return]

    def job(self) -> dict[str, Any]:
        (job,) = self.jobs()
        return job

    def workers(self) -> dict[str, dict[str, Any]]:
        """The worker pods by name, those that are being deleted as well."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=worker"
        return {pod["metadata"]["name"]: pod for pod in self.space.get("pods", "-l", selector)["items"]}

    def worker(self, number: int) -> str:
        return f"{self.job()['metadata']['name']}-worker-{number}"

    def on_volume(self, command: str) -> str:
        """Runs a shell command in the folder where the data-access pod mounts the volume."""
        return self.space.kubectl("exec", self.data_pod(), "--", "sh", "-c", f"cd {MOUNT} && {command}")

    def upload(self, folder: Path) -> None:
        """Copies a folder onto the volume."""
        self.space.kubectl("cp", str(folder), f"{self.data_pod()}:{MOUNT}/{folder.name}")

    def data_pod(self) -> str:
        """The name of the pod that holds the volume for `kubectl cp`, once it is ready."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=dataaccess"

        def ready() -> list[str]:
            pods = self.space.get("pods", "-l", selector)["items"]
            statuses = ((pod, pod["status"].get("containerStatuses", [{}])[0]) for pod in pods)
            return [pod["metadata"]["name"] for pod, status in statuses if status.get("ready")]

        # An image of gigabytes may have to come first.
        return until(ready, "data-access pod", minutes=7)[0]

    def last_words(self) -> str:
        """What the workers left to be read by `kubectl describe pod`."""
        states = [
            state["terminated"].get("message", "")
            for pod in self.workers().values()
            for status in pod["status"].get("containerStatuses", ())
            for state in (status["state"], status["lastState"])
            if "terminated" in state
        ]
        return "\n".join(states)

    def logs(self, number: int = 0) -> str:
        return self.space.kubectl("logs", self.worker(number), "--tail=-1")

    def condition(self) -> str:
        """The last condition of the job that holds: Created, Running, Restarting, Succeeded, Failed."""
        holding = [
            c["type"] for c in self.job().get("status", {}).get("conditions", []) if c["status"] == "True"
        ]
        return holding[-1] if holding else ""

    def wait_for(self, condition: str, *, minutes: float) -> None:
        """Waits for a condition of the job; a job that failed instead is told with its events and logs."""

        def reached() -> bool:
            found = self.condition()
            assert found == condition or found not in {"Failed", "Succeeded"}, self.told()
            return found == condition

        try:
            until(reached, f"{self.name} {condition}", minutes=minutes)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from None

    def told(self) -> str:
        """All that the cluster says of this release, for whoever reads a failed test."""
        parts = [json.dumps(self.job().get("status", {}), indent=1)]
        parts.append(self.space.kubectl("get", "events", "--sort-by=.lastTimestamp"))
        for pod in self.workers():
            done = subprocess.run(
                ["kubectl", "-n", self.space.name, "logs", pod, "--tail=60"],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ,
            )
            parts.append(f"--- {pod}\n{done.stdout}{done.stderr}")
        return "\n".join(parts)
