"""SIGTERM, Ctrl-C and a closed terminal: how the process terminates in order."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from llm_finetune.runtime.signals import NUMBERS, handled_signals
from llm_finetune.runtime.termination_message import report_error
from llm_finetune.runtime.watchdog import force_exit

# A download's threads go on to the end of their files, and the interpreter would wait for them.
SECONDS_TO_EXIT = 10.0


class _State:
    """What of this process's signals was seen, and who sees to them."""

    seen = 0
    is_attended = False
    is_held_back = False
    waiting: int | None = None


def install_handlers() -> None:
    """From now on a signal ends the process in order, with the code 128 + n; a second one at once."""
    for number in handled_signals():
        signal.signal(number, _leave)


@contextmanager
def on_signal(action: Callable[[int], NoReturn]) -> Iterator[None]:
    """While the body runs, the first signal calls `action`, in a thread of its own; a second one ends all.

    The main thread may be in the middle of a backward pass or a collective, and not come back for hours: a
    handler of Python's would wait for it, the file descriptor that the system's handler writes to does not.

    Args:
        action: gets the signal's number, and ends the process.
    """
    seen, tell = socket.socketpair()
    tell.setblocking(False)
    watching = threading.Thread(target=_watch, args=(seen, action), daemon=True)
    before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    _State.is_attended = True
    watching.start()
    try:
        yield
    finally:
        _State.is_attended = False
        signal.set_wakeup_fd(before)
        tell.close()
        watching.join()
        seen.close()


@contextmanager
def defer_signals() -> Iterator[None]:
    """While the body runs, which takes seconds, the first signal waits for its end; a second one ends all."""
    _State.is_held_back = True
    try:
        yield
    finally:
        _State.is_held_back = False
        if _State.waiting is not None:
            _end(_State.waiting)


def describe_signal(number: int) -> str:
    """What stopped the run, and how to resume it."""
    name = signal.Signals(number).name
    return f"stopped by {name}; rerun the same command (without --fresh) to resume"


def _watch(seen: socket.socket, action: Callable[[int], NoReturn]) -> None:
    while said := seen.recv(1):
        if said[0] in NUMBERS:
            _State.seen += 1
            if _State.seen > 1:
                os._exit(128 + said[0])
            threading.Thread(target=action, args=(said[0],), daemon=True).start()


def _leave(number: int, frame: FrameType | None) -> None:
    if _State.is_attended:
        return
    _State.seen += 1
    if _State.seen > 1:
        os._exit(128 + number)
    if _State.is_held_back:
        _State.waiting = number
    else:
        _end(number)


def _end(number: int) -> NoReturn:
    report_error([f"{describe_signal(number)} (finished stages are preserved)"])
    last = threading.Timer(SECONDS_TO_EXIT, force_exit, (128 + number,))
    last.daemon = True
    last.start()
    raise SystemExit(128 + number)
