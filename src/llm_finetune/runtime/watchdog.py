"""Ends a process that cannot end in order: one that failed in a group, or hangs where no timeout reaches."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from llm_finetune.errors import GroupError
from llm_finetune.runtime.heartbeat import remove_heartbeat


def force_exit(exit_code: int) -> NoReturn:
    """Ends this process at once.

    An orderly exit would wait for a thread that hangs; and where the group was not left in order, torch's own
    threads abort it, with a code that hides what went wrong.
    """
    remove_heartbeat()
    with suppress(OSError):  # the terminal may be closed
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)


def exit_after(
    seconds: float, last_words: Callable[[], str], exit_code: int = GroupError.exit_code
) -> threading.Timer:
    """Starts a timer that ends this process with `exit_code`, unless it is canceled.

    It prints where each thread hangs, and `last_words()`. Collectives release the interpreter's lock, so
    the timer's thread runs while the main one hangs in them.
    """

    def end() -> None:
        faulthandler.dump_traceback(file=sys.stderr)
        with suppress(OSError):  # its reader may have closed it
            print(last_words(), file=sys.stderr, flush=True)  # last, where the launcher looks for them
        force_exit(exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def exit_on_timeout(seconds: float, last_words: Callable[[], str]) -> Iterator[None]:
    """Ends this process if the body takes longer than `seconds`."""
    timer = exit_after(seconds, last_words)
    try:
        yield
    finally:
        timer.cancel()
