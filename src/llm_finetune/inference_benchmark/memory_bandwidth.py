"""How fast some cores together read memory: a bound for decoding, which reads all weights for each token.

python -m llm_finetune.inference_benchmark.memory_bandwidth 0 1 2 3      prints bytes a second
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from llm_finetune.errors import ModelError
from llm_finetune.host.interpreter import module

ARRAY_BYTES = 2**30  # of all cores together; far above what caches hold
SECONDS = 0.5


def memory_bandwidth(cores: Sequence[int]) -> float:
    """Bytes a second that these cores read together.

    In a process of its own, so that its array does not count as the caller's memory.

    Raises:
        ModelError: there is no memory for the array.
    """
    command = [sys.executable, *module("llm_finetune.inference_benchmark.memory_bandwidth"), *map(str, cores)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ModelError(
            f"the memory bandwidth could not be measured (exit code {done.returncode}); that needs "
            f"{ARRAY_BYTES >> 20} MiB beside the model: benchmark fewer instances, or give more memory"
        )
    return float(done.stdout)


def _read_on_all(cores: Sequence[int]) -> float:
    together = Barrier(len(cores))
    with ThreadPoolExecutor(len(cores)) as pool:
        rates = [pool.submit(_read, core, ARRAY_BYTES // len(cores), together) for core in cores]
        return sum(rate.result() for rate in rates)


def _read(core: int, size: int, together: Barrier) -> float:
    """One thread's bytes a second. It fills its array itself, so that the memory is its own socket's."""
    os.sched_setaffinity(0, [core])
    array = np.ones(size // 8, dtype=np.int64)
    together.wait()
    started, bytes_read, seconds = time.perf_counter(), 0, 0.0
    while seconds < SECONDS:
        np.bitwise_or.reduce(array)  # of numpy's reductions the one that waits for memory alone
        bytes_read += array.nbytes
        seconds = time.perf_counter() - started
    return bytes_read / seconds


if __name__ == "__main__":
    print(_read_on_all([int(core) for core in sys.argv[1:]]))
