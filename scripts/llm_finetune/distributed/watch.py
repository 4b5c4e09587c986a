"""Ends a process that hangs where no timeout reaches: most of all in a collective of ccl."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_finetune.errors import GroupError


def end_after(
    seconds: float, last_words: Callable[[], str], exit_code: int = GroupError.exit_code
) -> threading.Timer:
    """Starts a timer that ends this process with `exit_code`, unless it is cancelled.

    It prints `last_words()` and where each thread hangs. Collectives release the interpreter's lock, so
    the timer's thread runs while the main one hangs in them.
    """

    def end() -> None:
        print(last_words(), file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr)
        os._exit(exit_code)  # an orderly exit would wait for the thread that hangs

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def ended_after(seconds: float, last_words: Callable[[], str]) -> Iterator[None]:
    """Ends this process if the body takes longer than `seconds`."""
    timer = end_after(seconds, last_words)
    try:
        yield
    finally:
        timer.cancel()
