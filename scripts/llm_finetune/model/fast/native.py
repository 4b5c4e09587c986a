"""The kernels of kernels.cpp: compiled once for this processor by the machine's C++ compiler, then cached."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
# Infinities and not-a-numbers keep their meaning, so no -ffast-math.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
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
    """The kernels; None where this machine has no C++ compiler, which the log says."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        log.info("speed: no C++ compiler (g++) here: the passes between matrix products are torch's own")
        return None
    try:
        return Kernels(ctypes.CDLL(str(_compiled(compiler))))
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        said = getattr(error, "stderr", "") or str(error)
        log.warning("speed: kernels.cpp could not be compiled, torch's own passes are used: %s", said.strip())
        return None


def _compiled(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    made_from = "\n".join([SOURCE.read_text(), *FLAGS, version, platform.machine(), _processor()])
    library = _cache_folder() / f"{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            subprocess.run(
                [compiler, *FLAGS, str(SOURCE), "-o", str(made)],
                capture_output=True, text=True, check=True, timeout=120,
            )  # fmt: skip
            os.replace(made, library)  # another process may have been as fast: both are the same
    return library


def _processor() -> str:
    """What -march=native looks at: a cache may be shared between machines."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return ""


def _cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    if not os.access(home if home.is_dir() else home.parent, os.W_OK):
        home = Path(tempfile.gettempdir()) / f"llm-finetune-{os.getuid()}"
    return home / "llm-finetune" / "kernels"
