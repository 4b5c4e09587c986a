"""A process ends with the one that started it: one that outlived it would hold the cores of the next."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

PARENT = "LLM_FINETUNE_PARENT"
PR_SET_PDEATHSIG = 1


@contextmanager
def mark_children() -> Iterator[None]:
    """The processes that are started in the body know whose they are."""
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]


def exit_with_parent() -> None:
    """Has the kernel kill this process when the process that started it dies, if that one asked for it."""
    parent = os.environ.pop(PARENT, None)  # what this process starts is not that one's
    if parent is not None:
        set_parent_death_signal(int(parent), signal.SIGKILL)


def set_parent_death_signal(parent: int, number: signal.Signals) -> None:
    """Has the kernel send this process a signal when its parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before that line
        os.kill(os.getpid(), number)
