"""Keeps the last finished step, whenever and from wherever the process is told to leave.

From one optimizer step to the next, weights and optimizer stand still: forward and backward only read them.
So whoever holds the lock in between, whatever the main thread does meanwhile, finds the last finished step
whole in memory and can write it. A step may take an hour, or hang in a collective for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class SaveLock:
    """The lock between the training and whoever has to keep its last finished step.

    Args:
        save: writes that step, unless it is on the disk already; never called while weights are in motion.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._lock = threading.Lock()
        self._in_motion = False

    def move(self) -> None:
        """Weights, or what goes with them, are about to change. Waits for ever where the process leaves."""
        if not self._in_motion:
            self._lock.acquire()
            self._in_motion = True

    def rest(self) -> None:
        """A step is finished: nothing changes until the next `move`."""
        if self._in_motion:
            self._in_motion = False
            self._lock.release()

    def keep(self) -> None:
        """Saves the last finished step. Nothing moves any more after it: the process is to leave."""
        if self._in_motion and threading.current_thread() is threading.main_thread():
            return  # what ends the training broke in the middle of its motion
        self._lock.acquire()
        self._save()
