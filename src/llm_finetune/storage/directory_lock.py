"""One run at a time in an output folder: a lock that rank 0 holds, and that ends with its process.

Two runs of one folder would each delete and replace what the other writes: a command started twice, or a pod
that Kubernetes believes dead on a node that it cannot reach.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llm_finetune.errors import GroupError
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing

NAME = ".lock"
POLL_SECONDS = 0.5
HELD = {errno.EACCES, errno.EAGAIN}

log = logging.getLogger(__name__)

# POSIX's locks keep other processes away; these, the threads of this one. And what it holds.
_TURNS: dict[Path, threading.RLock] = {}
_HELD: dict[Path, TextIO] = {}


@contextmanager
def locked(
    path: Path, patience_seconds: float, named_in: str = "distributed.train.outputDir"
) -> Iterator[None]:
    """Holds the folder while the body runs; makes it where it is not there, and leaves none that is empty.

    A lock of POSIX, which NFS knows as well and no child inherits. Where the file system has none, a warning
    is all. Its holder may take it again.

    Args:
        named_in: where the user finds the folder's name, for errors.

    Raises:
        GroupError: another run holds it for longer than the patience.
        OutputError: the folder cannot be written.
    """
    with _held(path, path, NAME, patience_seconds, named_in):
        yield


@contextmanager
def locked_beside(path: Path, patience_seconds: float, named_in: str) -> Iterator[None]:
    """The same for a folder that is replaced as a whole, and a lock in it with it: it stands beside."""
    path = Path(os.path.realpath(path))
    with _held(path, path.parent, f".{path.name}.lock", patience_seconds, named_in):
        yield


@contextmanager
def _held(path: Path, place: Path, name: str, patience_seconds: float, named_in: str) -> Iterator[None]:
    lock = Path(os.path.realpath(place)) / name
    turn, end = _TURNS.setdefault(lock, threading.RLock()), time.monotonic() + patience_seconds
    if not turn.acquire(timeout=patience_seconds):
        raise _held_by_another(path, "another thread of this process", named_in)
    try:
        if lock in _HELD:
            yield
            return
        was_there = place.is_dir()
        _HELD[lock] = _taken(path, lock, end, named_in)
        try:
            yield
        finally:
            with suppress(OSError):  # the volume may be what failed; without a process it means nothing
                lock.unlink()
            _HELD.pop(lock).close()
            if not was_there:
                with suppress(OSError):  # something was written
                    place.rmdir()
    finally:
        turn.release()


def _taken(path: Path, lock: Path, end: float, named_in: str) -> TextIO:
    """The lock's file, held by this process."""
    has_warned = False
    while True:
        with writing(path, preserved=lambda: f"{named_in} names it"):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = open(atomic.open_own(lock), "r+", encoding="utf-8")  # noqa: SIM115
            if _is_ours(file, lock):
                _sign(file)
                return file
        holder = file.read().strip() or "unknown holder"
        file.close()
        if time.monotonic() > end:
            raise _held_by_another(path, holder, named_in)
        if not has_warned:
            has_warned = True
            log.warning("another run works in %s: %s; waiting for its end", path, holder)
        time.sleep(POLL_SECONDS)


def _held_by_another(path: Path, holder: str, named_in: str) -> GroupError:
    return GroupError(
        f"another run works in {path}: {holder}; stop it, wait for its end, or name another folder "
        f"({named_in})"
    )


def _is_ours(file: TextIO, path: Path) -> bool:
    """Takes the lock, if it is free."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its holder before has removed the file: another one may have its name by now.
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in HELD:
            return False
        log.warning("%s cannot be locked (%s): see to it that no other run works there", path, error.strerror)
        return True


def _sign(file: TextIO) -> None:
    """Writes who holds it, for those who wait."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}")
    file.flush()
