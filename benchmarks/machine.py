"""What the processor can do, measured in the process whose speed is judged: matrix products and reading."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any


def gemm_peak(size: int = 4096, rounds: int = 3) -> float:
    """Operations a second of a square bf16 matrix product; the best of a few rounds."""
    import torch

    a, b = torch.randn(2, size, size).bfloat16()
    return 2 * size**3 / min(_timed(lambda: torch.mm(a, b)) for _ in range(rounds + 1))


def read_bandwidth(megabytes: int = 512, rounds: int = 3) -> float:
    """Bytes a second that all threads read together from memory; the best of a few rounds."""
    import torch

    block = torch.ones(megabytes << 18)
    return (megabytes << 20) / min(_timed(block.sum) for _ in range(rounds + 1))


def peak_memory() -> int:
    """Bytes of this process's resident set at its largest, mapped files counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no VmHWM")


def seconds_since_start() -> float:
    """Age of this process; starting itself again with other variables does not make it younger."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def described() -> dict[str, Any]:
    """Processor, threads, allocator and versions."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for package in ("torch", "transformers", "peft", "trl", "llamafactory"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "allocator": os.environ.get("LD_PRELOAD") or os.environ.get("GLIBC_TUNABLES") or "glibc",
        "python": platform.python_version(),
        **versions,
    }


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
