"""The highest instruction set that is used: the processor's, or a lower one that the environment names.

An older processor can be tried on a newer one so: this project's kernels, torch, oneDNN and MKL take the same
set, in every process that is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from llm_finetune.errors import SettingsError

MAX_CPU_ISA = "LLM_FINETUNE_MAX_CPU_ISA"
# torch's own, which lowers all the rest where it stands alone.
TORCH = "ATEN_CPU_CAPABILITY"


@dataclass(frozen=True)
class Level:
    """An instruction set of x86.

    Attributes:
        without: how the names of the features begin that are above it, as the kernel writes them.
        compiler: the flags that stand for it.
        libraries: what tells torch, oneDNN and MKL.
    """

    without: tuple[str, ...]
    compiler: tuple[str, ...]
    libraries: Mapping[str, str]


LEVELS = {
    "avx2": Level(
        ("avx512", "avx_vnni", "avx10", "amx"),
        ("-march=x86-64-v3",),
        {TORCH: "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
    "avx512": Level(
        ("avx512_bf16", "avx512_fp16", "avx_vnni", "avx10", "amx"),
        ("-march=x86-64-v4",),
        {TORCH: "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    ),
    "avx512_bf16": Level(
        ("avx512_fp16", "avx10", "amx"),
        ("-march=x86-64-v4", "-mavx512bf16"),
        {TORCH: "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    ),
}


def highest(environment: Mapping[str, str] = os.environ) -> Level | None:
    """The level that the environment names; None: all that the processor has.

    Raises:
        SettingsError: it names none that is known.
    """
    if name := environment.get(MAX_CPU_ISA):
        if name.lower() not in LEVELS:
            raise SettingsError(
                f"environment variable {MAX_CPU_ISA}: found {name!r}, expected one of {', '.join(LEVELS)}"
            )
        return LEVELS[name.lower()]
    # "default" means no vector instructions, which the other libraries cannot be limited to.
    return LEVELS.get({"default": "avx2"}.get(found := environment.get(TORCH, "").lower(), found))


def lower_libraries(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tells the libraries of this process and of those it starts; before they compute anything."""
    if level := highest(environment):
        for name, value in level.libraries.items():
            environment.setdefault(name, value)
