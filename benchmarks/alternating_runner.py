"""Programs that are measured in turns: each loads once, then they run one after another, again and again.

Another process on the same cores makes any figure several times worse, and the memory of a virtual machine
has fast and slow minutes: only what was measured in the same minutes can be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

from worker_protocol import Answer

from llm_finetune.distributed import available_cores
from llm_finetune.inference_benchmark.memory_bandwidth import memory_bandwidth

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Program:
    """What is measured.

    Attributes:
        command: it takes turns, as worker_protocol.py describes.
        rounds: turns that it takes at most.
        environment: variables beside those of this process.
    """

    name: str
    command: Sequence[str]
    rounds: int = 100
    environment: Mapping[str, str] = field(default_factory=dict)


def in_turns(programs: Sequence[Program], rounds: int, *, bandwidth: bool = False) -> list[Answer]:
    """What each program measured: each number as median, minimum and maximum, and turn by turn.

    They get ready one after another, too.

    Args:
        bandwidth: measure the memory's, which the cores reach together, right before and after each turn.
    """
    cores = sorted(os.sched_getaffinity(0))[: available_cores()]
    turns: dict[str, list[Answer]] = {program.name: [] for program in programs}
    ready: dict[str, Answer] = {}
    with ExitStack() as running:
        started = []
        for program in programs:
            print(f"{program.name}: gets ready", file=sys.stderr, flush=True)
            started.append(running.enter_context(_Running(program, len(cores))))
            ready[program.name] = started[-1].answer()
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for process in started:
                if number < process.program.rounds:
                    before = memory_bandwidth(cores) if bandwidth else 0.0
                    answer = process.turn()
                    if bandwidth:
                        answer["bandwidth"] = (before + memory_bandwidth(cores)) / 2
                    turns[process.program.name].append(answer)
    return [{"name": name, **ready[name], **_summary(turns[name]), "turns": turns[name]} for name in turns]


class _Running:
    """A program while it is measured; what it says beside its answers goes to a file."""

    def __init__(self, program: Program, threads: int) -> None:
        self.program = program
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed on exit
        own = program.command[0] == sys.executable
        path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH") if own else None])]
        self.process = subprocess.Popen(
            program.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={
                **os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path), **program.environment,
            },
        )  # fmt: skip

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        """Its input ends, and so does it."""
        with self.process:
            pass
        self.log.close()

    def turn(self) -> Answer:
        _of(self.process.stdin).write("go\n")
        _of(self.process.stdin).flush()
        return self.answer()

    def answer(self) -> Answer:
        for line in _of(self.process.stdout):
            if line.startswith("@{"):
                answer: Answer = json.loads(line[1:])
                return answer
        self.log.seek(0)
        raise SystemExit(f"{self.program.name}: exit code {self.process.wait()}\n{self.log.read()[-3000:]}")


def _of(pipe: IO[str] | None) -> IO[str]:
    assert pipe
    return pipe


def _summary(turns: Sequence[Answer]) -> Answer:
    keys = turns[0] if turns else {}
    found: Answer = {key: median(turn[key] for turn in turns) for key in keys}
    return {**found, "least_and_most": {key: _ends([turn[key] for turn in turns]) for key in keys}}


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
