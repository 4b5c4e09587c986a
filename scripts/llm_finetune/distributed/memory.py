"""How much memory this process and its neighbours may have together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_finetune.distributed.cores import lines, upwards

# Version 1 writes "no limit" as a number near 2 to the 63rd.
NO_LIMIT = 1 << 60


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes: the machine's memory, or the limit of a control group above this process where that is lower.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    machine = next(line for line in lines(root / "proc/meminfo") if line.startswith("MemTotal:"))
    return min([int(machine.split()[1]) * 1024, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files = (folder / "memory.max" for folder in upwards(root / "sys/fs/cgroup", path))
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            files = (folder / "memory.limit_in_bytes" for folder in upwards(mount, path))
        else:
            continue
        for file in files:
            words = lines(file)
            if words and words[0] != "max" and int(words[0]) < NO_LIMIT:
                yield int(words[0])
