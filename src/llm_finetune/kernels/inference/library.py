"""The C sources as a library in this process, and their structures as Python fills them.

Without a compiler, or on a processor without the required features, there is none; callers then use PyTorch's
kernels, and one line of the log says why.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

from llm_finetune.distributed import processor_features
from llm_finetune.kernels.compile import NotCompiledError, compiled

log = logging.getLogger(__name__)

FEATURES = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"}
FLAGS = ("-std=gnu11", "-mfma", *(f"-m{feature.replace('_', '')}" for feature in sorted(FEATURES)))
FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / name for name in ("matrix.c", "norm.c", "attention.c", "step.c"))
HEADERS = tuple(FOLDER / name for name in ("vectors.h", "native.h", "model.h"))


class Matrix(ctypes.Structure):
    """`Matrix` of native.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("bits", "rows", "columns", "group", "symmetric_zero_point")),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "zero_points", "bias")),
    ]


class Layer(ctypes.Structure):
    """`Layer` of model.h."""

    _fields_ = [
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in ("input_norm", "after_attention_norm", "query_norm", "key_norm")
        ),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        ("window", ctypes.c_int32),
    ]


class Model(ctypes.Structure):
    """`Model` of model.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("layer_count", "hidden", "inner", "heads", "key_heads")),
        *((name, ctypes.c_int32) for name in ("head_dim", "capacity", "count", "threads")),
        *((name, ctypes.c_float) for name in ("epsilon", "scaling")),
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_void_p) for name in ("embedding", "final_norm")),
        ("head", Matrix),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines", "starts")),
        *((name, ctypes.c_void_p) for name in ("residual", "projected", "attended", "activated")),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The library; None where it cannot be built or run, which is logged once."""
    try:
        if missing := FEATURES - processor_features():
            raise NotCompiledError(f"this processor lacks {' '.join(sorted(missing))}")
        loaded = compiled(SOURCES, FLAGS, headers=HEADERS)
    except NotCompiledError as error:
        log.info("no native inference kernels, so generation takes about twice as long: %s", error)
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_int
    loaded.multiply.argtypes = [ctypes.POINTER(Matrix), pointer, count, pointer, pointer, count]
    loaded.step.argtypes = [ctypes.POINTER(Model), pointer, count, count, pointer]
    loaded.multiply.restype = loaded.step.restype = None
    return loaded
