"""Signals that ask to stop, as an exception in the main thread."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def name_of(number: int) -> str:
    """A signal's name; its number where Python has none for it."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def handled_signals() -> list[signal.Signals]:
    """Those that this process listens to: under nohup a closed terminal is no reason to stop."""
    return [one for one in NUMBERS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]


class SignaledError(BaseException):
    """Somebody wants this process to stop. No `except Exception` of a library swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell has it: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self.number


@contextmanager
def raised_signals() -> Iterator[None]:
    """Within the body each such signal raises SignaledError, a second one as well."""

    def handle(number: int, frame: FrameType | None) -> None:
        # Not by the log: the signal may have come in the middle of a line of it.
        with suppress(OSError):  # its reader may have closed it
            os.write(2, f"{signal.Signals(number).name}: stopping; a second signal leaves at once\n".encode())
        raise SignaledError(number)

    before = {number: signal.signal(number, handle) for number in handled_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
