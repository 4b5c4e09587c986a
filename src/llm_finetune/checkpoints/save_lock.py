"""A lock that lets any thread save the last finished step while the main thread computes the next one.

Between two optimizer steps weights and optimizer do not change: forward and backward passes only read them.
So a thread that holds the lock finds the last finished step complete in memory and can write it, whatever the
main thread is doing. This matters because a step may take an hour, or hang in a collective forever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class SaveLock:
    """Serializes updates of weights and optimizer with the saving of the last finished step.

    Args:
        save: writes that step, unless it is on disk already; never called during an update.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._lock = threading.Lock()
        self._is_updating = False

    def begin_update(self) -> None:
        """Call before weights, optimizer or progress change. Blocks forever once the process is exiting."""
        if not self._is_updating:
            self._lock.acquire()
            self._is_updating = True

    def end_update(self) -> None:
        """A step is finished: nothing changes until the next `begin_update`."""
        if self._is_updating:
            self._is_updating = False
            self._lock.release()

    def save(self) -> None:
        """Saves the last finished step and blocks all further updates: call it only when exiting."""
        if self._is_updating and threading.current_thread() is threading.main_thread():
            return  # an error in the middle of an update: weights and optimizer do not match
        self._lock.acquire()
        self._save()
