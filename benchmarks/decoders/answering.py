"""How a decoder takes its turns: it loads a model, and answers a prompt in each turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import worker_protocol

Decode = Callable[[], Iterator[object]]


def prompt(length: int, vocabulary: int = 32000) -> list[int]:
    """Token ids spread over the vocabulary."""
    return [(7919 * position) % vocabulary for position in range(1, length + 1)]


def take_turns(load: Callable[[], tuple[Decode, dict[str, object]]], **versions: str) -> None:
    """Says what an answer took, turn after turn.

    Args:
        load: the model; it returns what begins an answer, whose first token reads the prompt, and what is to
            be reported of the model.
    """
    started = time.perf_counter()
    decode, details = load()
    loaded = time.perf_counter() - started

    def answer() -> worker_protocol.Answer:
        started = time.perf_counter()
        tokens = decode()
        next(tokens)
        first = time.perf_counter()
        count = sum(1 for _ in tokens)
        seconds = time.perf_counter() - first
        return {"first_token_seconds": first - started, "tokens_per_second": count / seconds}

    worker_protocol.take_turns(answer, load_seconds=loaded, versions=versions, **details)
