"""The failure of another rank, and how waiting threads are notified of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llm_finetune.errors import GroupError


@dataclass(frozen=True)
class Failure:
    """A rank that left before the work was done: its number, exit code and message."""

    rank: int
    exit_code: int
    message: str

    @classmethod
    def from_word(cls, word: Any) -> Failure | None:
        """A peer's report of its end; None where it is invalid."""
        match word:
            case {"rank": int(rank), "exit_code": int(code), "message": str(message), **more}:
                return cls(rank, code, message) if 0 < code < 256 and not more else None
        return None

    def as_error(self) -> GroupError:
        """The error that ends this rank too, with the exit code of the one that failed.

        So the launcher returns the cause's code, whichever rank it sees leave first.
        """
        error = GroupError(self.message)
        error.exit_code = self.exit_code
        return error


class Alarm:
    """Rings once, for the first failure that is heard of. Waiting on it burns no core."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self._rung = threading.Event()
        self._lock = threading.Lock()
        self._action: Callable[[Failure], None] | None = None

    @contextmanager
    def on_trip(self, action: Callable[[Failure], None]) -> Iterator[None]:
        """While the body runs, a peer's failure calls `action`, in the thread that hears of it."""
        self._action = action
        try:
            yield
        finally:
            self._action = None

    def act(self) -> None:
        """Calls the action, where there is one: the main thread may hang and never look at the alarm."""
        if self._action is not None and self.failure is not None:
            self._action(self.failure)

    def trip(self, failure: Failure) -> bool:
        """Rings for `failure`, unless an earlier one has rung; returns whether it was the first."""
        with self._lock:
            if self.failure is not None:
                return False
            self.failure = failure
        self._rung.set()
        return True

    def wait(self, seconds: float) -> None:
        """Waits that long, or until it rings.

        Raises:
            GroupError: if it has rung.
        """
        if self._rung.wait(seconds):
            assert self.failure is not None
            raise self.failure.as_error()
