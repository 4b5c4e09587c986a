"""Process 1 of a worker's container: forwards signals, reaps orphans and ends a stopped launcher.

The kernel gives every orphan to process 1, where one that is not reaped stays a zombie, and delivers to it no
signal that it does not handle. tini, process 1 of everything else that the image runs, does that too. But it
would wait forever for a launcher that is stopped (SIGSTOP), and leave no message of one that is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from llm_finetune.runtime.signals import NUMBERS

STOPPED_SECONDS = 60.0  # a debugger's stop does not count: only the debugger is notified


def under_init(
    main: Callable[[], int], if_killed: Callable[[int], None], stopped_seconds: float = STOPPED_SECONDS
) -> int:
    """Runs `main` in a child where this is process 1, else here.

    Args:
        if_killed: called with the signal that killed the child, which could not report it.
        stopped_seconds: how long the child may be stopped (SIGSTOP) before it is killed.

    Returns:
        The exit code: the child's, or 128 + n where signal n ended it.
    """
    if os.getpid() != 1:
        return main()
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)  # until somebody handles them
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
        return main()

    def forward(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in NUMBERS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
    stopped: threading.Timer | None = None
    while True:
        ended, status = os.waitpid(-1, os.WUNTRACED | os.WCONTINUED)
        if ended != child:
            continue
        if stopped:
            stopped.cancel()
        if os.WIFSTOPPED(status):
            stopped = threading.Timer(stopped_seconds, os.kill, (child, signal.SIGKILL))
            stopped.daemon = True
            stopped.start()
        elif not os.WIFCONTINUED(status):
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                if_killed(-code)
            return code if code >= 0 else 128 - code
