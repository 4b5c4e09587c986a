"""Which cores have a memory of their own in common (a NUMA node), and on which of them a rank stays."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.host.cgroups import lines
from llm_finetune.host.cpu import available_cores

log = logging.getLogger(__name__)

Cores = list[int]


def nodes(root: Path = Path("/")) -> list[Cores]:
    """The cores this process may use, node by node; all as one where the kernel names no nodes.

    Args:
        root: where `sys` is mounted.
    """
    usable = os.sched_getaffinity(0)
    folders = (root / "sys/devices/system/node").glob("node[0-9]*")
    by_number = sorted(folders, key=lambda folder: int(folder.name.removeprefix("node")))
    named = (usable.intersection(_listed(folder / "cpulist")) for folder in by_number)
    return [sorted(cores) for cores in named if cores] or [sorted(usable)]


@contextmanager
def bind_to_numa_node(local_rank: int, local_size: int, root: Path = Path("/")) -> Iterator[None]:
    """Keeps a rank that shares its machine with others on its own nodes; so the threads it starts meanwhile.

    Memory lies at the node of the core that first writes to it, and from another one it is read at about half
    the speed. Only affinity is set: binding memory itself needs a privilege that pods lack.

    Args:
        local_rank, local_size: of how many ranks on this machine it is which.
        root: where `proc` and `sys` are mounted.
    """
    there = nodes(root)
    cores = share_of(there, local_rank, local_size)
    if cores is None:
        if len(there) > 1 and available_cores(root) > len(there[0]):
            line = "cores: on %d NUMA nodes; processesPerWorker: %d would keep each process near its memory"
            log.info(line, len(there), len(there))
        yield
        return
    before = os.sched_getaffinity(0)
    log.info("cores: local rank %d stays on %d of %d, near its memory", local_rank, len(cores), len(before))
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def share_of(there: Sequence[Cores], local_rank: int, local_size: int) -> Cores | None:
    """A rank's cores; None where nodes and ranks do not divide each other, or have nothing to divide."""
    count = len(there)
    if count == 1 or local_size == 1 or len({len(cores) for cores in there}) > 1:
        return None
    if local_size % count == 0:
        return there[local_rank * count // local_size]
    if count % local_size == 0:
        each = count // local_size
        first = local_rank * each
        return sorted(core for cores in there[first : first + each] for core in cores)
    return None


def _listed(file: Path) -> Iterator[int]:
    """The kernel's lists are like "0-15,32-47"; that of a node without cores is empty."""
    for part in filter(None, "".join(lines(file)).strip().split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
