"""The largest resident set of this process."""

from __future__ import annotations

import subprocess
import sys

from llm_finetune.host.memory import peak_memory_bytes


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    before = peak_memory_bytes()
    held = bytearray(b"x") * 2**29
    assert peak_memory_bytes() >= len(held)
    assert peak_memory_bytes() >= before
    asks = "from llm_finetune.host.memory import peak_memory_bytes; print(peak_memory_bytes())"
    child = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert 0 < int(child.stdout) < len(held)
