"""Progress of this process, and how long it has been idle, as reported to the other ranks.

Progress is expected only in the loop of the training, with the evaluations in it. All else that takes long
has a deadline of its own, or is waited for as long as it lives: downloads, preparation, loading, compiling,
checkpoints on a slow volume.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

BUSY_SHARE = 0.02  # of one core; a computing process uses far more, a waiting one far less


@dataclass(frozen=True)
class Progress:
    """What a rank says of itself.

    Attributes:
        step: that is done.
        part: forward passes of the step after that.
        idle_seconds: since it last took processor time, or came further.
        quiet_seconds: since it last came further.
        longest_seconds: from one such moment to the next so far; 0: there was none.
        is_expected: it should come further.
    """

    step: int
    part: int
    idle_seconds: float
    quiet_seconds: float
    longest_seconds: float
    is_expected: bool

    @classmethod
    def from_word(cls, word: Any) -> Progress | None:
        """Progress that another process reported; None where it is invalid."""
        names = [field.name for field in fields(cls)]
        if not isinstance(word, dict) or word.keys() != set(names):
            return None
        *numbers, is_expected = (word[name] for name in names)
        if not isinstance(is_expected, bool):
            return None
        if not all(type(number) in (int, float) and 0 <= number < 1e15 for number in numbers):
            return None
        return cls(**word)


class _Clock:
    """Notes when this process comes further."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step = self._part = 0
        self._longest = 0.0
        self._depth = 0  # of what is no part of the loop
        self._is_looping = False
        self._came_further = self._was_busy = self._looked = time.monotonic()
        self._processor = time.process_time()

    def came_further(self, step: int | None = None, part: bool = False) -> None:
        with self._lock:
            now = time.monotonic()
            if self._is_looping and not self._depth:
                self._longest = max(self._longest, now - self._came_further)
            self._came_further = now
            if step is not None:
                self._step, self._part = step, 0
            self._part += part

    @property
    def step(self) -> int:
        return self._step

    def loop(self, is_looping: bool) -> None:
        with self._lock:
            self._is_looping, self._came_further = is_looping, time.monotonic()

    def apart(self, change: int) -> None:
        with self._lock:
            self._depth, self._came_further = self._depth + change, time.monotonic()

    def now(self) -> Progress:
        with self._lock:
            now, processor = time.monotonic(), time.process_time()
            if processor - self._processor > BUSY_SHARE * (now - self._looked):
                self._was_busy = now
            self._looked, self._processor = now, processor
            return Progress(
                self._step,
                self._part,
                now - max(self._was_busy, self._came_further),
                now - self._came_further,
                self._longest,
                self._is_looping and not self._depth,
            )


_CLOCK = _Clock()
now = _CLOCK.now


def step_done(step: int) -> None:
    """Notes that a step is done; costs nothing."""
    _CLOCK.came_further(step)


def steps_done() -> int:
    """The last step that is done; 0 before the first."""
    return _CLOCK.step


def part_done() -> None:
    """Notes that a forward pass of a step is done: who waits in its backward pass is ahead of who is not."""
    _CLOCK.came_further(part=True)


def alive() -> None:
    """Notes something else that is done, as a batch of an evaluation is."""
    _CLOCK.came_further()


def begin_loop() -> None:
    """From here on this process should come further, one step after the other."""
    _CLOCK.loop(True)


def end_loop() -> None:
    """The last step is done, or there will be none."""
    _CLOCK.loop(False)


@contextmanager
def apart() -> Iterator[None]:
    """What the body does is no part of the loop, and may take as long as it takes: writing to a volume."""
    _CLOCK.apart(1)
    try:
        yield
    finally:
        _CLOCK.apart(-1)
