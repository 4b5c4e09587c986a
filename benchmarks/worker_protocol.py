"""Protocol of a measured program: it prepares itself, then runs one turn for each request.

Plain Python, since each program runs in the environment of what it measures.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def take_turns(work: Callable[[], Answer], **ready: Any) -> None:
    """Tells by a line of JSON that it is ready, then what each turn gave, one for a line of input."""
    send(ready)
    for _ in sys.stdin:
        send({**work(), "peak_memory_bytes": peak_memory()})


def send(answer: Answer) -> None:
    print("\n@" + json.dumps(answer), flush=True)


def peak_memory() -> int:
    """Bytes of this process's resident set at its largest, mapped files counted."""
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    return int(peak[1]) * 1024


def gemm_peak(size: int = 4096) -> float:
    """Operations a second of a square bf16 matrix product, the better of two."""
    import torch

    a, b = torch.ones(2, size, size, dtype=torch.bfloat16)
    return 2 * size**3 / min(_seconds(lambda: torch.mm(a, b)) for _ in range(2))


def seconds_since_start() -> float:
    """Age of this process; starting itself again with other variables does not make it younger."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in packages}


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
