"""How much memory this container uses, and how much it may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_finetune.host.cgroups import control_groups, lines

SHORT = 0.85  # of the limit: what the kernel kills for comes in leaps

# By version: limit, use, and the entry of memory.stat that counts files which can be dropped at any time.
FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


@dataclass(frozen=True)
class Memory:
    """Bytes in use, as Kubernetes counts them (without files that can be dropped), and the limit."""

    used_bytes: int
    limit_bytes: int

    @property
    def is_short(self) -> bool:
        """Whether a kill was probably for it."""
        return self.used_bytes > SHORT * self.limit_bytes

    def __str__(self) -> str:
        return f"{self.used_bytes / 1e9:.1f} of {self.limit_bytes / 1e9:.1f} GB of memory"


def memory_now(root: Path = Path("/")) -> Memory:
    """That of the group above this process that has the least left; without one, the machine's.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    total, available = (_of_machine(root, name) for name in ("MemTotal", "MemAvailable"))
    tight = [group for group in _groups(root) if group.limit_bytes < total]
    machine = Memory(total - available, total)
    return min(tight, key=lambda group: group.limit_bytes - group.used_bytes, default=machine)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes: the machine's memory, or the limit of a control group above this process where that is lower.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    return min([_of_machine(root, "MemTotal"), *(group.limit_bytes for group in _groups(root))])


def _groups(root: Path) -> Iterator[Memory]:
    """Each control group that has a limit."""
    for version, folder in control_groups("memory", root):
        limit_name, used_name, dropped = FILES[version]
        limit, used = (lines(folder / name) for name in (limit_name, used_name))
        # Version 1 writes "no limit" as a number near 2 to the 63rd.
        if limit and limit[0] != "max":
            counted = dict(line.split() for line in lines(folder / "memory.stat"))
            yield Memory(int(used[0]) - int(counted.get(dropped, 0)) if used else 0, int(limit[0]))


def _of_machine(root: Path, name: str) -> int:
    """A figure of /proc/meminfo; 0 where it has none of that name."""
    found = [line for line in lines(root / "proc/meminfo") if line.startswith(f"{name}:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far, mapped files included."""
    # Not getrusage's ru_maxrss: a child inherits its parent's there.
    lines_of_status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines_of_status if line.startswith("VmHWM:")).split()[1]) * 1024
