"""Worker pods as processes of this machine, and an operator that starts them again as Kubernetes would.

Each is a real `llm-finetune worker` with the environment that the training operator gives it. They share this
machine's loopback, or have a network namespace each.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from tally import TALLY

from llm_finetune.config import load

PATIENCE_SECONDS = 240.0  # a job that takes longer hangs
FIRST_RETRY = 128
PROGRAM = Path(__file__).parent / "rank_program.py"


@dataclass
class Pod:
    """A worker: its process now, and how those before it ended.

    Attributes:
        codes: exit codes as Kubernetes has them: 128 + n where signal n ended it.
    """

    name: str
    process: subprocess.Popen[bytes]
    codes: list[int]
    prefix: Sequence[str] = ()

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code


class Pods:
    """The pods of one job.

    Args:
        folder: stands for the volume; the job's outputDir is `out` in it, unless the settings name another.
        settings: keys below `distributed` that differ from the chart's; two underscores stand for a dot.
    """

    def __init__(
        self, folder: Path, workers: int, *, least: int = 1, restarts: int = 3, **settings: Any
    ) -> None:
        self.folder = folder
        self.out = Path(settings.get("train__outputDir", folder / "out"))
        self.workers = workers
        self.host = "localhost"
        self.port = _free_port()
        self.extra: dict[str, str] = {}
        self.arguments: list[str] = []
        self._least, self._restarts = least, restarts
        self._pods: dict[int, Pod] = {}
        self._faults: Counter[str] = Counter()
        self.settings_file = folder / "settings.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.settings_file.write_text(json.dumps({"distributed": _merged(self.out, settings)}))

    def __enter__(self) -> Pods:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self._pods.values():
            if pod.process.poll() is None:
                for child in self.children_of(pod.process.pid):
                    _kill(child)
                pod.process.kill()
                pod.process.wait()

    def __getitem__(self, number: int) -> Pod:
        return self._pods[number]

    def start(self, *numbers: int, prefix: Sequence[str] = ()) -> None:
        """Starts these workers; all where none is named."""
        for number in numbers or range(self.workers):
            self._start(number, prefix)

    @property
    def state(self) -> Path:
        """Where the launcher keeps what outlives a pod."""
        return self.out / ".launcher"

    def said(self, number: int) -> str:
        """All that a worker's processes have printed, as `kubectl logs` shows it."""
        return self._log(number).read_text(errors="replace")

    def last_words(self, number: int) -> str:
        """A worker's termination message."""
        file = self._termination(number)
        return file.read_text() if file.exists() else ""

    def rounds(self) -> dict[str, Any]:
        """What the leader keeps on the volume."""
        content: dict[str, Any] = json.loads((self.state / "rounds.json").read_text())
        return content

    def step(self) -> int:
        """The last step that the rank program has kept."""
        file = self.out / "progress.json"
        return int(json.loads(file.read_text())["step"]) if file.exists() else 0

    def children_of(self, process: int) -> list[int]:
        """The process ids of its children, zombies among them."""
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]

    def kill_rank(self, number: int) -> None:
        """SIGKILL for the rank of a worker, as the kernel's out-of-memory killer does it."""
        for rank in self.children_of(self[number].process.pid):
            os.kill(rank, signal.SIGKILL)
        self._count("a rank of a group killed")

    def kill(self, number: int) -> None:
        """SIGKILL for a pod's launcher, and with it for its ranks."""
        self[number].process.kill()
        self._count("a pod of a group killed")

    def drain(self, number: int) -> None:
        """SIGTERM for a pod, as a drained node sends it."""
        self[number].process.terminate()
        self._count("a pod of a group drained")

    def until(self, met: Callable[[], bool], what: str, operating: bool = False) -> None:
        """Waits until the condition is met."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not met():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self._everything()}"
            if operating:
                self._operate()
            time.sleep(0.05)

    def until_step(self, step: int) -> None:
        self.until(lambda: self.step() >= step, f"step {step}")

    def until_said(self, number: int, words: str) -> None:
        self.until(lambda: words in self.said(number), f"worker {number} says {words!r}")

    def finish(self, operating: bool = True) -> dict[int, int]:
        """Waits for the job's end, and gives the last exit code of each worker.

        Args:
            operating: pods that end with 128 or more are started again meanwhile, as restartPolicy ExitCode
                has it.
        """

        def all_ended() -> bool:
            return all(pod.ended() is not None for pod in self._pods.values())

        self.until(lambda: not (operating and self._operate()) and all_ended(), "the end of all pods")
        codes = {number: pod.ended() or 0 for number, pod in self._pods.items()}
        if not any(codes.values()):
            TALLY.resumed.update(self._faults)
            self._faults.clear()
        return codes

    def _count(self, fault: str) -> None:
        TALLY.made[fault] += 1
        self._faults[fault] += 1

    def _operate(self) -> bool:
        """Starts again what is worth it; whether there was something."""
        again = {n: pod for n, pod in self._pods.items() if (pod.ended() or 0) >= FIRST_RETRY}
        for number, pod in again.items():
            self._start(number, pod.prefix)
        return bool(again)

    def _start(self, number: int, prefix: Sequence[str]) -> None:
        old = self._pods.get(number)
        codes = [*old.codes, old.ended() or 0] if old else []
        name = self.host if number == 0 else f"{self.host}-{number}"
        environment = {
            **os.environ,
            "PET_NNODES": f"{self._least}:{self.workers}",
            "PET_RDZV_BACKEND": "c10d",
            "PET_RDZV_ENDPOINT": f"{self.host}:{self.port}",
            "PET_MAX_RESTARTS": str(self._restarts),
            "POD_NAME": name,
            "TERMINATION_LOG": str(self._termination(number)),
            "OMP_NUM_THREADS": "1",
            **self.extra,
        }
        command = [*prefix, sys.executable, "-m", "llm_finetune.cli.main", "worker"]
        command += ["--settings", str(self.settings_file), "--volume", str(self.folder)]
        command += ["--wait-for-workers", str(self.workers), "--grace-seconds", "20", *self.arguments]
        with self._log(number).open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._pods[number] = Pod(name, process, codes, prefix)

    def _log(self, number: int) -> Path:
        return self.folder / f"worker-{number}.log"

    def _termination(self, number: int) -> Path:
        return self.folder / f"worker-{number}.termination"

    def _everything(self) -> str:
        return "\n".join(f"--- worker {number}\n{self.said(number)[-3000:]}" for number in self._pods)


def _merged(out: Path, changes: dict[str, Any]) -> dict[str, Any]:
    tree = load([]).settings.to_values()
    tree |= {"script": str(PROGRAM), "doEval": False}
    tree |= {"lostWorkerTimeoutMinutes": 0.1, "shutdownGraceSeconds": 5}
    tree["train"] |= {"outputDir": str(out), "bf16": False, "useIpex": False, "ddpBackend": "gloo"}
    for key, value in changes.items():
        *sections, name = key.split("__")
        reduce(dict.__getitem__, sections, tree)[name] = value
    return tree


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(process, signal.SIGKILL)
