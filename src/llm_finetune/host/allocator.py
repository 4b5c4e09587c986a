"""The memory allocator of the processes that train: one that keeps a step's large buffers for the next.

glibc gives them back to the kernel, which clears each page again at the next step; that can cost half of it.
An allocator is chosen as a process starts, so one that has the wrong one starts itself again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_finetune.errors import SettingsError
from llm_finetune.host.interpreter import SAFE_PATH

KNOWN = ("tcmalloc", "jemalloc", "mimalloc")
NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libtcmalloc_minimal.so", "libtcmalloc.so")
FOLDERS = ("usr/lib/*-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")
HOW_TO_GET = "apt-get install libtcmalloc-minimal4 (Debian, Ubuntu), or gperftools-libs (Fedora, RHEL)"
# No buffer by mmap, nothing given back, one heap grown by 64 MB at a time, in huge pages: glibc's manual,
# "Memory Allocation Tunables".
TUNABLES = {
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 1 << 40,
    "glibc.malloc.top_pad": 64 << 20,
    "glibc.malloc.arena_max": 1,
    "glibc.malloc.hugetlb": 1,
}


def wanted(switch: str, environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """The variables that give a process a good allocator; none where it has one, or where it is switched off.

    Args:
        switch: auto takes tcmalloc, or tunes glibc's own where it is not installed.
        root: where the system's libraries are looked for.

    Raises:
        SettingsError: the switch is on, and there is no tcmalloc.
    """
    preloaded = environment.get("LD_PRELOAD", "")
    tuned = environment.get("GLIBC_TUNABLES", "")
    if switch == "off" or any(name in preloaded for name in KNOWN):
        return {}
    if library := next(_installed(root), None):
        return {"LD_PRELOAD": ":".join(filter(None, [str(library), preloaded]))}
    if switch == "on":
        raise SettingsError(
            "distributed.train.optimizations.memoryAllocator: found on, but tcmalloc is not installed; "
            f"{HOW_TO_GET}, or write auto"
        )
    if "glibc.malloc" in tuned:
        return {}
    ours = ":".join(f"{name}={value}" for name, value in TUNABLES.items())
    return {"GLIBC_TUNABLES": ":".join(filter(None, [tuned, ours]))}


def described(environment: Mapping[str, str]) -> str:
    """Which allocator a process with these variables has, for the log."""
    for library in environment.get("LD_PRELOAD", "").replace(" ", ":").split(":"):
        if any(name in library for name in KNOWN):
            return Path(library).name
    kind = "tuned" if "glibc.malloc" in environment.get("GLIBC_TUNABLES", "") else "as it comes"
    return f"glibc's, {kind}; tcmalloc: {HOW_TO_GET}"


def start_again_with(variables: dict[str, str]) -> None:
    """Puts the same command in this process's place, with more variables; does nothing without any."""
    if variables:
        os.environ.update(variables)
        os.execv(sys.executable, [sys.executable, SAFE_PATH, *sys.orig_argv[1:]])


def _installed(root: Path) -> Iterator[Path]:
    for name in NAMES:
        for folder in FOLDERS:
            yield from sorted(root.glob(f"{folder}/{name}"))
