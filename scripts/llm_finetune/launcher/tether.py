"""A rank ends with its launcher: one that outlived it would hold the place and the cores of the next."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

LAUNCHER = "LLM_FINETUNE_LAUNCHER"
PR_SET_PDEATHSIG = 1


@contextmanager
def holding_ranks() -> Iterator[None]:
    """The processes that are started in the body know whose they are."""
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[LAUNCHER]


def tie_to_launcher() -> None:
    """Has the kernel kill this process when its launcher is gone; without one of ours nothing happens."""
    launcher = os.environ.pop(LAUNCHER, None)  # what this process starts is not the launcher's
    if launcher is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(launcher):  # it died before that line
            os.kill(os.getpid(), signal.SIGKILL)
