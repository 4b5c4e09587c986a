"""The command in real processes that start warm: forked from a server that has the libraries loaded.

Importing them takes most of a start, and a run of the faults needs hundreds. Each process runs the whole
command, writes to files of its own and can be killed as any other. A process may be given a moment: an event
of its own at which it kills itself with SIGKILL, or hangs, so that any place in it can be hit, and hit again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

PATIENCE = 300
REACHED = ".reached"  # a file that says that a process is at its moment
# multiprocessing asks after all its processes whenever one starts: where two threads of a test ask at once,
# one reads the exit code, and the other finds nothing left to read and takes that for 255.
ASKING = threading.Lock()
PRELOADED = [
    "process_pool",
    "llm_finetune.cli.main",
    "llm_finetune.launcher.start",
    "llm_finetune.stages",
    "peft",
    "datasets",
]


@dataclass(frozen=True)
class Moment:
    """When something happens to a process.

    Attributes:
        event: one of `EVENTS`.
        number: at its so-manieth time, from 1.
        what: it dies by SIGKILL; it hangs in C code from then on, where no handler of Python's is run; or it
            waits until the test lets it `go_on`.
    """

    event: str
    number: int
    what: Literal["dies", "hangs", "waits"] = "dies"


def in_step(number: int, what: Literal["dies", "hangs", "waits"] = "dies") -> Moment:
    """In the middle of a step, counted from 1: at the beginning of its backward pass."""
    return Moment("step", (number - 1) * 2 * len(EVENTS["step"]) + 3, what)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; -9: killed.
        counts: how often each event was seen, where it came to its end.
    """

    code: int | None
    text: str
    counts: dict[str, int]


class Warm:
    """Starts commands.

    Args:
        folder: for what they print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._started = 0

    def start(
        self, arguments: list[str], moment: Moment | None = None, environment: dict[str, str] | None = None
    ) -> tuple[ForkServerProcess, Path]:
        """A process that runs `llm-finetune *arguments`, and the file of what it says."""
        with ASKING:
            self._started += 1
            said = self._folder / f"{self._started}.txt"
        said.touch()
        given = (arguments, moment, {**_inherited(), **(environment or {})}, said)
        process = self._context.Process(target=_run, args=given)
        with ASKING:
            process.start()
        return process, said

    def run(self, arguments: list[str], moment: Moment | None = None) -> Ended:
        """Runs a command to its end."""
        return ended(*self.start(arguments, moment))

    def run_group(self, arguments: list[str], size: int, moments: dict[int, Moment]) -> list[Ended]:
        """Runs a command as the ranks of a group on this machine, to its end."""
        return [ended(*one) for one in self.start_group(arguments, size, moments)]

    def start_group(
        self, arguments: list[str], size: int, moments: dict[int, Moment]
    ) -> list[tuple[ForkServerProcess, Path]]:
        """Starts the ranks as an agent would."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        started = []
        for rank in range(size):
            group = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
            environment = {name: str(value) for name, value in group.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            started.append(self.start(arguments, moments.get(rank), environment))
        return started


def reached(process: ForkServerProcess, said: Path) -> None:
    """Waits until the process is at its moment."""
    end = time.monotonic() + PATIENCE
    while not said.with_suffix(REACHED).exists():
        assert not wait([process.sentinel], 0), said.read_text()
        assert time.monotonic() < end, said.read_text()
        time.sleep(0.02)


def go_on(said: Path) -> None:
    """Lets a process go on that waits."""
    said.with_suffix(REACHED).unlink()


def signaled(process: ForkServerProcess, said: Path, *numbers: int) -> Ended:
    """Sends signals to a process that hangs, and waits for its end."""
    reached(process, said)
    assert process.pid
    for number in numbers:
        os.kill(process.pid, number)
        time.sleep(0.5)
    return ended(process, said)


def ended(process: ForkServerProcess, said: Path) -> Ended:
    """Waits for a process."""
    if not wait([process.sentinel], PATIENCE):
        process.kill()
        raise AssertionError(f"hangs: {said.read_text()}")
    with ASKING:
        code = process.exitcode
    counts = said.with_suffix(".json")
    return Ended(code, said.read_text(), json.loads(counts.read_text()) if counts.exists() else {})


def _inherited() -> dict[str, str]:
    names = ("HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "TMPDIR")
    return {name: os.environ[name] for name in names if name in os.environ}


def _run(arguments: list[str], moment: Moment | None, environment: dict[str, str], said: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's word is for the tests themselves
    with said.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.update({"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", **environment})
    counts = _watch_events(moment, said)
    from llm_finetune.cli import main

    sys.argv = ["llm-finetune", *arguments]
    try:
        main.main()
    finally:
        said.with_suffix(".json").write_text(json.dumps(counts))


def _watch_events(moment: Moment | None, said: Path) -> dict[str, int]:
    """Counts events, before and after each; at the moment this process is hit."""
    counts = dict.fromkeys(EVENTS, 0)

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count() -> None:
            counts[name] += 1
            if moment and (moment.event, moment.number) == (name, counts[name]):
                _hit(moment, said)

        def call(*arguments: Any, **named: Any) -> Any:
            count()
            result = function(*arguments, **named)
            count()
            return result

        return call

    for name, places in EVENTS.items():
        for module, attribute in places:
            owner = _owner(module)
            setattr(owner, attribute, watched(name, getattr(owner, attribute)))
    return counts


def _hit(moment: Moment, said: Path) -> None:
    if moment.what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    said.with_suffix(REACHED).touch()
    if moment.what == "hangs":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    while said.with_suffix(REACHED).exists():
        time.sleep(0.02)


def _owner(path: str) -> Any:
    """The module or class of that dotted path."""
    import importlib

    module, _, name = path.partition(":")
    owner = importlib.import_module(module)
    return getattr(owner, name) if name else owner


# Where a process can be hit, before each and after it: in a step, at any change it makes to the disk, in a
# collective, in a stage after the training, and where a stage is written down as done.
EVENTS: dict[str, list[tuple[str, str]]] = {
    "step": [
        ("llm_finetune.training.trainer:RowTrainer", "compute_loss"),
        ("accelerate:Accelerator", "backward"),
        ("accelerate.optimizer:AcceleratedOptimizer", "step"),
    ],
    "disk": [("os", name) for name in ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink")]
    + [
        ("llm_finetune.checkpoints.weights", "save_weights"),
        ("llm_finetune.checkpoints.manifest", "write_json"),
    ],
    "saving": [("llm_finetune.checkpoints.optimizer_state", "save_file")],
    "collective": [("torch.distributed", "all_reduce")],
    "leaving a model": [("llm_finetune.stages.train", "save_model")],
    "judging": [("llm_finetune.stages.evaluate", "evaluate_model")],
    "quantizing": [
        ("llm_finetune.models.safetensors_io:ShardWriter", "add"),
        ("llm_finetune.quantization.quantize", "copy_auxiliary_files"),
        ("llm_finetune.quantization.quantize", "load_quantized"),
    ],
    "measuring": [
        ("llm_finetune.inference_benchmark.benchmark", "answers"),
        ("llm_finetune.inference_benchmark.benchmark", "memory_bandwidth"),
    ],
    "reporting": [
        ("llm_finetune.stages.report", "make_report"),
        ("llm_finetune.report.html", "load"),
    ],
    "finishing": [("llm_finetune.pipeline.run_directory:RunDirectory", "finish")],
}
