"""The pods' signs of life on the volume: what they tell of one that was killed, and of another job."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llm_finetune.errors import GroupError
from llm_finetune.runtime import heartbeat

SILENT_SECONDS = 3 * heartbeat.EVERY_SECONDS
PREFIX = "heartbeat-"

log = logging.getLogger(__name__)


class PodHeartbeats:
    """One file for each pod whose ranks run; one that stays is of a pod that was killed.

    Args:
        folder: on the volume.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def of_ranks(self, pod: str) -> Iterator[None]:
        """Has the ranks that start in the body give signs; afterwards there are none."""
        os.environ[heartbeat.FILE] = str(self._file(pod))
        try:
            yield
        finally:
            del os.environ[heartbeat.FILE]
            self.forget(pod)

    def last(self, pod: str) -> str:
        """The last sign of a pod, to stand behind what happened to it; empty where there is none."""
        sign = heartbeat.read(self._file(pod))
        return f", {sign}" if sign else ""

    def left(self) -> str:
        """The last signs of all pods that were killed, in words."""
        return "".join(f"; {pod}{self.last(pod)}" for pod in self._pods())

    def forget(self, pod: str) -> None:
        """Takes a pod's sign away."""
        with suppress(OSError):  # the volume may be what failed; the next writer reports it
            self._file(pod).unlink(missing_ok=True)

    def await_other_job(self, job: str, patience_seconds: float) -> None:
        """Waits until the pods of any other job at this folder are silent: they may be saving still.

        Args:
            job: this one's pods have names that begin so.

        Raises:
            GroupError: they are not.
        """
        began = changed = time.monotonic()
        seen = self._renewed(job)
        if seen:
            log.info("waiting until another job has left %s: %s", self._folder.parent, " and ".join(seen))
        while seen and time.monotonic() - changed < SILENT_SECONDS:
            now = time.monotonic()
            if now - began > patience_seconds:
                raise GroupError(
                    f"distributed.train.outputDir: {self._folder.parent} is another job's, which still runs: "
                    f"{' and '.join(seen)}; wait for its end, delete it, or name another folder"
                )
            time.sleep(1.0)
            before, seen = seen, self._renewed(job)
            if seen != before:
                changed = time.monotonic()
        for pod in seen:
            self.forget(pod)

    def _renewed(self, job: str) -> dict[str, int]:
        """When each pod of another job gave its last sign."""
        found = {}
        for pod in self._pods():
            if not pod.startswith(job):
                try:
                    found[pod] = self._file(pod).stat().st_mtime_ns
                except OSError:  # it left meanwhile
                    continue
        return found

    def _pods(self) -> list[str]:
        return sorted(file.stem.removeprefix(PREFIX) for file in self._folder.glob(f"{PREFIX}*.json"))

    def _file(self, pod: str) -> Path:
        return self._folder / f"{PREFIX}{pod}.json"
