"""How a decoder takes its turns: it loads a model, and decodes whenever it is told.

Plain Python, since each decoder runs in the environment of what it measures.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def prompt(length: int, vocabulary: int = 32000) -> list[int]:
    """Token ids spread over the vocabulary."""
    return [(7919 * position) % vocabulary for position in range(1, length + 1)]


Decode = Callable[[], Iterator[object]]


def take_turns(load: Callable[[], tuple[Decode, dict[str, object]]], **versions: str) -> None:
    """Tells by a line of JSON when the model is there, then what each turn took, one for a line of input.

    Args:
        load: the model; it returns what begins an answer, whose first token reads the prompt, and what is to
            be told of the model.
    """
    started = time.perf_counter()
    decode, said = load()
    _say({"load_seconds": time.perf_counter() - started, "versions": versions, **said})
    for _ in sys.stdin:
        started = time.perf_counter()
        tokens = decode()
        next(tokens)
        first = time.perf_counter()
        count = sum(1 for _ in tokens)
        seconds = time.perf_counter() - first
        _say({"first_token_seconds": first - started, "tokens_per_second": count / seconds, **_memory()})


def _memory() -> dict[str, int]:
    """The largest resident set, mapped files counted."""
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    return {"peak_memory_bytes": int(peak[1]) * 1024}


def _say(answer: dict[str, object]) -> None:
    print("@" + json.dumps(answer), flush=True)
