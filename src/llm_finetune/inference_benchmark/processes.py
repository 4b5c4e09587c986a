"""The benchmark's processes: started, synchronized at the start of each phase, and ended together."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any

from llm_finetune.errors import ModelError
from llm_finetune.host.interpreter import module
from llm_finetune.runtime.parent_death import mark_children

log = logging.getLogger(__name__)

Answer = dict[str, Any]
REPORT_SECONDS = 5.0
LAST_LINES = 5
# Set for the whole machine, these would pin or count an instance's threads against its order.
OF_OTHER_THREADS = {"GOMP_CPU_AFFINITY", "KMP_AFFINITY", "MKL_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND"}


@dataclass(frozen=True)
class Order:
    """The task of an instance.

    Attributes:
        model: what the log calls it.
        folder: where it is.
        cores: the instance's own.
        warmup: iterations before those that are timed.
    """

    model: str
    folder: str
    cores: tuple[int, ...]
    warmup: int
    iterations: int
    prompt_tokens: int
    trust_remote_code: bool


@dataclass(frozen=True)
class Instance:
    """A running instance, as the process that started it sees it.

    Attributes:
        title: says which one it is.
        connection: it sends how many iterations are done (an int), and an answer (a dict) where a phase ends.
        output: what it prints.
    """

    title: str
    order: Order
    process: subprocess.Popen[bytes]
    connection: Connection
    output: IO[bytes]

    def begin(self, phase: str) -> None:
        """Starts a phase. Raises ModelError with the last lines of its output if the process has died."""
        try:
            self.connection.send(phase)
        except ConnectionError as error:
            raise self._failure(self.process.wait()) from error

    def receive(self) -> int | Answer:
        """Its next message. Raises ModelError with the last lines of its output if the process has died."""
        try:
            message: int | Answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._failure(self.process.wait()) from error
        return message

    def _failure(self, code: int) -> ModelError:
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (out of memory?)" if code == -signal.SIGKILL else ""
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        words = "; its last output:\n" + "\n".join(lines) if lines else ""
        return ModelError(f"benchmark of the {self.order.model} model: {self.title} {how}{words}")


@contextmanager
def started(orders: Sequence[Order]) -> Iterator[list[Instance]]:
    """Starts an instance for each order, and ends all of them when it is left."""
    with ExitStack() as all_of_them:
        yield [
            all_of_them.enter_context(_one_started(f"instance {number} of {len(orders)}", order))
            for number, order in enumerate(orders, 1)
        ]


def run(instances: Sequence[Instance], phase: str) -> list[Answer]:
    """Starts a phase on all instances at once and waits for their measurements."""
    for instance in instances:
        instance.begin(phase)
    return answers(instances, phase)


def answers(instances: Sequence[Instance], phase: str) -> list[Answer]:
    """Waits for an answer of each; logs the progress of the slowest every few seconds.

    Raises:
        ModelError: an instance has died.
    """
    given: dict[str, Answer] = {}
    done = dict.fromkeys((instance.title for instance in instances), 0)
    reported = time.monotonic()
    while running := [instance for instance in instances if instance.title not in given]:
        heard = wait([instance.connection for instance in running], timeout=REPORT_SECONDS)
        for instance in (one for one in running if one.connection in heard):
            message = instance.receive()
            if isinstance(message, int):
                done[instance.title] = message
            else:
                given[instance.title] = message
                done.pop(instance.title)
        if time.monotonic() - reported > REPORT_SECONDS and (slowest := min(done.values(), default=0)):
            reported = time.monotonic()
            order = instances[0].order
            of_all = order.warmup + order.iterations
            log.info("benchmark of the %s model: %s, %d of %d", order.model, phase, slowest, of_all)
    return [given[instance.title] for instance in instances]


@contextmanager
def _one_started(title: str, order: Order) -> Iterator[Instance]:
    here, there = Pipe()
    worker = [sys.executable, *module("llm_finetune.inference_benchmark.instance")]
    with tempfile.TemporaryFile() as output, here:
        with there, mark_children():
            environment = {name: value for name, value in os.environ.items() if name not in OF_OTHER_THREADS}
            environment["OMP_NUM_THREADS"] = str(len(order.cores))
            process = subprocess.Popen(
                [*worker, json.dumps(asdict(order)), str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=[there.fileno()],
            )
        try:
            yield Instance(title, order, process, here, output)
        finally:
            process.kill()
            process.wait()
