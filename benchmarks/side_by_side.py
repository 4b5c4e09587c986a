"""Programs that are measured in turns: each loads once, then they run one after another, again and again.

Another process on the same cores makes any figure several times worse, and the memory of a virtual machine
has fast and slow minutes: only what was measured in the same minutes can be compared.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from llm_finetune.distributed import available_cores
from llm_finetune.stages.memory_bandwidth import memory_bandwidth

Answer = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """What is measured.

    Attributes:
        command: it prints a line of "@" and JSON when it is ready, and one for each line that it is given.
        rounds: turns that it takes at most.
    """

    name: str
    command: Sequence[str]
    rounds: int = 100


def in_turns(programs: Sequence[Program], rounds: int) -> list[Answer]:
    """For each program what it said, number by number as median, least and most over its turns.

    The memory's bandwidth, which the cores reach together, is measured right before and after each turn.
    """
    cores = sorted(os.sched_getaffinity(0))[: available_cores()]
    turns: dict[str, list[Answer]] = {program.name: [] for program in programs}
    with ExitStack() as running:
        started = [(program, running.enter_context(_started(program, len(cores)))) for program in programs]
        ready = {program.name: _answer(program, process) for program, process in started}
        for number in range(rounds):
            for program, process in started:
                if number < program.rounds:
                    before = memory_bandwidth(cores)
                    _tell(process)
                    answer = _answer(program, process)
                    bandwidth = (before + memory_bandwidth(cores)) / 2
                    turns[program.name].append({**answer, "bandwidth": bandwidth})
    return [{"name": name, **ready[name], **_summary(turns[name])} for name in turns]


def machine() -> Answer:
    """What the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": model, "cores": available_cores(), "python": platform.python_version()}


def markdown(rows: Sequence[Answer], columns: dict[str, str]) -> str:
    """A table.

    Args:
        columns: header by the rows' key.
    """
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def write(folder: Path, name: str, results: Answer, table: str, picture: str) -> None:
    """NAME.json, NAME.md and NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / f"{name}.md").write_text(table + "\n")
    (folder / f"{name}.svg").write_text(picture)


def bars(title: str, values: Sequence[tuple[str, float]], unit: str) -> str:
    """A picture (SVG) with a bar for each value."""
    most, height = max(value for _, value in values), 30 * len(values) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="sans-serif">',
        f'<rect width="720" height="{height}" fill="white"/>',
        f'<text x="10" y="26" font-size="16">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values):
        y, width = 40 + 30 * number, 360 * value / most
        parts.append(f'<text x="250" y="{y + 15}" font-size="13" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="260" y="{y}" width="{width:.1f}" height="20" fill="#2f6f9f"/>')
        said = f"{value:.3g} {unit}"
        parts.append(f'<text x="{265 + width:.1f}" y="{y + 15}" font-size="13">{escape(said)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _started(program: Program, threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        program.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
    )


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def _answer(program: Program, process: subprocess.Popen[str]) -> Answer:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("@"):
            answer: Answer = json.loads(line[1:])
            return answer
    raise SystemExit(f"{program.name} ended with exit code {process.wait()}: {' '.join(program.command)}")


def _summary(turns: Sequence[Answer]) -> Answer:
    keys = turns[0] if turns else {}
    found: Answer = {key: median(turn[key] for turn in turns) for key in keys}
    return {**found, "least_and_most": {key: _ends([turn[key] for turn in turns]) for key in keys}}


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
