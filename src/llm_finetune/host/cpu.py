"""What the processor offers this process: how many cores it may use, and what they can do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_finetune.host.cgroups import control_groups, lines
from llm_finetune.host.instruction_set import highest

BF16_FEATURES = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is aarch64's name for it
UNBOUND = float("inf")
# A pod's resources.requests.cpu in thousandths of a core, by the downward API.
CPU_REQUEST = "CPU_REQUEST"


def available_cores(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """The whole cores this process may keep busy: by its affinity, and its CPU quota or else its request.

    The host's count would be wrong in a container: a pod limited to 4 CPUs on a 64-core node would start
    64 threads and spend its quota on switching between them. One without a limit shares the node's cores
    with its neighbors, and what it requested is what it gets.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    bounds = [quota for quota in _quotas(root) if quota != UNBOUND]
    requested = environment.get(CPU_REQUEST, "")
    if not bounds and requested.isdecimal() and int(requested) > 0:
        bounds = [int(requested) / 1000]
    return max(1, int(min([len(os.sched_getaffinity(0)), *bounds])))


def threads_per_process(cores: int, processes: int) -> int:
    """Threads for each of `processes` processes on `cores` cores: at least one."""
    return max(1, cores // processes)


def processor_features(root: Path = Path("/")) -> frozenset[str]:
    """What instructions are used, as the kernel names them; empty where it names none.

    All that the processor has, or those of the level that the environment names.

    Args:
        root: where `proc` is mounted.
    """
    for line in lines(root / "proc/cpuinfo"):
        name, _, features = line.partition(":")
        if name.strip() in ("flags", "Features"):
            above = level.without if (level := highest()) else ()
            return frozenset(feature for feature in features.split() if not feature.startswith(above))
    return frozenset()


def has_bf16(root: Path = Path("/")) -> bool:
    """Whether bfloat16 instructions are used."""
    return not BF16_FEATURES.isdisjoint(processor_features(root))


def _quotas(root: Path) -> Iterator[float]:
    """Each CPU quota that binds this process, in cores."""
    for version, folder in control_groups("cpu", root):
        yield _quota_v2(folder) if version == 2 else _quota_v1(folder)


def _quota_v2(folder: Path) -> float:
    """`cpu.max` is "<quota> <period>" in microseconds, or "max <period>"."""
    words = " ".join(lines(folder / "cpu.max")).split()
    return UNBOUND if not words or words[0] == "max" else int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float:
    """`cpu.cfs_quota_us` is -1 where there is no limit."""
    quota, period = (lines(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return UNBOUND if not quota or int(quota[0]) <= 0 else int(quota[0]) / int(period[0])
