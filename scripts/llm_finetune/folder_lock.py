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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llm_finetune.errors import GroupError
from llm_finetune.volume import writing

NAME = ".lock"
POLL_SECONDS = 0.5
HELD = {errno.EACCES, errno.EAGAIN}

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, patience_seconds: float) -> Iterator[None]:
    """Holds the folder while the body runs; makes it where it is not there, and leaves none that is empty.

    A lock of POSIX, which NFS knows as well and no child inherits. Where the file system has none, a warning
    is all.

    Raises:
        GroupError: another run holds it for longer than the patience.
        OutputError: the folder cannot be written.
    """
    was_there = path.is_dir()
    file = _taken(path, time.monotonic() + patience_seconds)
    try:
        yield
    finally:
        with suppress(OSError):  # the volume may be what failed; without this process the file means nothing
            (path / NAME).unlink()
        file.close()
        if not was_there:
            with suppress(OSError):  # something was written
                path.rmdir()


def _taken(path: Path, end: float) -> TextIO:
    """The lock's file, held by this process."""
    has_told = False
    while True:
        with writing(path, kept=lambda: "distributed.train.outputDir names it"):
            path.mkdir(parents=True, exist_ok=True)
            file = (path / NAME).open("a+", encoding="utf-8")
            if _is_ours(file, path / NAME):
                _sign(file)
                return file
        file.seek(0)
        holder = f"another run works in {path}: {file.read().strip() or 'it does not say which'}"
        file.close()
        if time.monotonic() > end:
            raise GroupError(f"{holder}; stop it, wait for its end, or name another outputDir")
        if not has_told:
            has_told = True
            log.warning("%s; waiting for its end", holder)
        time.sleep(POLL_SECONDS)


def _is_ours(file: TextIO, path: Path) -> bool:
    """Takes the lock, if it is free."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before has removed the file: another one may have its name by now.
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in HELD:
            return False
        log.warning("%s cannot be locked (%s): see to it that no other run works there", path, error.strerror)
        return True


def _sign(file: TextIO) -> None:
    """Says who holds it, for whoever waits."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}")
    file.flush()
