"""Where a user's caches are, also where the user has no home, no name, or a home that is read-only."""

from __future__ import annotations

import atexit
import getpass
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


def user_home() -> Path:
    """The user's home; for a user without one a folder of his own among the temporary ones."""
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in /etc/passwd
        return private_temporary()


def provide() -> None:
    """Gives a user without home or name both, for the libraries, which else write into ./~ or do not start.

    And torch a folder for what it compiles: the one that it would take has a name that others can know.
    """
    if "HOME" not in os.environ:
        os.environ["HOME"] = str(user_home())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # which of them depends on Python's version
        os.environ["USER"] = f"uid-{os.getuid()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private_cache("torchinductor")))


@cache
def private_cache(name: str) -> Path:
    """A folder for what can be made again, and that this user trusts since no other user may write to it."""
    problems = []
    for place in _caches():
        folder = place / "llm-finetune" / name
        problem = not_private(folder)
        if problem is None:
            break
        problems.append(f"{folder} {problem}")
    else:
        folder = private_temporary() / name
        folder.mkdir(mode=0o700, exist_ok=True)
    if problems:
        log.warning("%s: %s is taken in its place", "; ".join(problems), folder)
    return folder


def _caches() -> Iterator[Path]:
    """Where caches are: the user's, then those of Hugging Face's libraries, as far as somebody named them."""
    yield Path(os.environ.get("XDG_CACHE_HOME") or user_home() / ".cache")
    yield from (Path(os.environ[name]) for name in ("HF_HOME", "HF_DATASETS_CACHE") if os.environ.get(name))


@cache
def private_temporary() -> Path:
    """A temporary folder that only this user may write to: lasting, or deleted by this process."""
    folder = Path(tempfile.gettempdir()) / f"llm-finetune-{os.getuid()}"
    problem = not_private(folder)
    if problem is None:
        return folder
    log.warning("%s %s: its contents last as long as this process", folder, problem)
    own = Path(tempfile.mkdtemp(prefix="llm-finetune-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def not_private(folder: Path) -> str | None:
    """Why others could have put something into a folder, or this user cannot; made where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    if not stat.S_ISDIR(found.st_mode):
        return "is a link"
    if problem := others_wrote(found):
        return problem
    return None if os.access(folder, os.W_OK) else "cannot be written"


def others_wrote(found: os.stat_result) -> str | None:
    """Why a file or a folder may hold what others put there."""
    if found.st_uid != os.geteuid():
        return f"is another user's ({found.st_uid})"
    if found.st_mode & OTHERS_MAY_WRITE:
        return f"may be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None
