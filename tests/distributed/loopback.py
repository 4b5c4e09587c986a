"""Ranks as real processes on loopback, without an agent above them: each must notice by itself.

They are forked from one server that has torch loaded, since importing it takes longer than most tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PATIENCE = 100  # a rank that stays longer hangs: every deadline that it should not wait for is far longer


@dataclass(frozen=True)
class Outcome:
    """How a rank ended: its exit code (-n: by signal n) and what it said."""

    exit_code: int | None
    out: str
    err: str


class Processes:
    """Starts ranks and collects how they end.

    Args:
        folder: for what they print. Files and not pipes: a child that outlives its rank keeps a pipe open.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["llm_finetune.distributed.process_group"])
        self._running: dict[int, ForkServerProcess] = {}

    def start(self, scenario: str, size: int, ranks: list[int], packages: Path | None = None) -> None:
        """Starts `ranks` of a group of `size`, where a module in `packages` is found first."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in ranks:
            group = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
            environment = {name: str(value) for name, value in group.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            arguments = (scenario, environment, packages, self._folder / str(rank))
            self._running[rank] = self._context.Process(target=_run, args=arguments)
            self._running[rank].start()

    def outcomes(self) -> dict[int, Outcome]:
        """Waits for all of them."""
        return {rank: self._outcome(rank) for rank in self._running}

    def end(self) -> None:
        """Ends what still runs, and the children of what does not."""
        for process in self._running.values():
            assert process.pid is not None
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _outcome(self, rank: int) -> Outcome:
        process = self._running[rank]
        process.join(PATIENCE)
        said = self._folder / str(rank)
        return Outcome(process.exitcode, *(said.with_suffix(end).read_text() for end in (".out", ".err")))


def _run(scenario: str, environment: dict[str, str], packages: Path | None, said: Path) -> None:
    """Makes the forked process what a fresh one would be, and runs the scenario in it."""
    os.setsid()
    for descriptor, end in ((1, ".out"), (2, ".err")):
        with said.with_suffix(end).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    if packages is not None:
        sys.path.insert(0, str(packages))
    import worker

    sys.exit(worker.main(scenario))
