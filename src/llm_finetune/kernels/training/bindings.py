"""Python bindings of ops.cpp, which take tensors."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch

from llm_finetune.distributed import highest
from llm_finetune.kernels.compile import NotCompiledError, compiled

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("ops.cpp")
FLAGS = ("-march=native",)  # infinities and not-a-numbers keep their meaning, so no -ffast-math
# A tensor, a number of elements, an int, a 32-bit word, a float.
_TYPES = {
    "t": ctypes.c_void_p,
    "n": ctypes.c_long,
    "i": ctypes.c_int,
    "u": ctypes.c_uint32,
    "f": ctypes.c_float,
}
_SIGNATURES = {
    "rms_norm": "ttttnnff",
    "rms_norm_grad": "tttttnnf",
    "rotate": "ttttnnni",
    "gated": "tttni",
    "gated_grad": "tttttni",
    "softmax": "tnnnnnnf",
    "softmax_grad": "ttnnf",
    "label_log_probs": "tttnni",
    "dropout": "ttnuuf",
}
_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class Kernels:
    """The compiled functions. Each works on dense tensors of one format, float32 or bfloat16."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {}
        for name, signature in _SIGNATURES.items():
            for dtype, suffix in _NAMES.items():
                function = getattr(library, f"{name}_{suffix}")
                function.argtypes = [*(_TYPES[letter] for letter in signature), ctypes.c_int]
                function.restype = None
                self._functions[name, dtype] = function

    def run(self, name: str, *arguments: Any) -> None:
        """Calls a function; the format is that of its first tensor."""
        for x in arguments:
            if isinstance(x, torch.Tensor) and not x.is_contiguous():
                raise ValueError(f"{name}: a tensor of shape {tuple(x.shape)} is not dense")
        plain = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
        self._functions[name, arguments[0].dtype](*plain, torch.get_num_threads())


def takes(*tensors: torch.Tensor) -> bool:
    """Whether the kernels can work on these tensors: one format that they know, in the CPU's memory."""
    dtype = tensors[0].dtype
    return dtype in _NAMES and all(x.dtype == dtype and x.device.type == "cpu" for x in tensors)


@cache
def kernels() -> Kernels | None:
    """The kernels; None where they cannot be compiled, which is logged once."""
    try:
        level = highest()
        return Kernels(compiled([SOURCE], level.compiler if level else FLAGS))
    except NotCompiledError as error:
        log.warning("training with PyTorch operations: the native kernels cannot be compiled: %s", error)
        return None
