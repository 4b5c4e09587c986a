"""What cannot be written: one error with the path, what was wrong, the size needed, and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llm_finetune.errors import OutputError, UserError

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "have the quota raised",
    errno.EROFS: "have the volume mounted for writing",
    errno.ESTALE: "have the network volume remounted",
    errno.EBUSY: "name a folder without mount points in it",
    errno.EIO: "have the disk or the network volume seen to",
    errno.EACCES: "name a folder that this user may write",
    errno.EPERM: "name a folder that this user may write",
}


@contextmanager
def writing(
    path: Path, needed_bytes: int = 0, preserved: Callable[[], str] = lambda: "finished stages are preserved"
) -> Iterator[None]:
    """Around what writes `path`, or files in it.

    Args:
        needed_bytes: what it will take, where that is known; without that much room nothing is begun.
        preserved: returns what is not lost, for the message.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        free = free_bytes(path)
        if free is not None and free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except UserError:
        raise  # the error is reported already
    except Exception as error:
        number = _errno(error)
        if number is None:
            raise
        needed = f"{needed_bytes / 1e6:,.1f} MB needed, " if needed_bytes else ""
        raise OutputError(
            f"{path}: cannot be written: {os.strerror(number)}{_elsewhere(error, path)} "
            f"({needed}{_free(path)}); {preserved()}; {_remedy(number, path)}, and start the "
            "same command again (without --fresh): it goes on from there"
        ) from error


def check_writable(folder: Path, there: Path | None = None) -> None:
    """Raises OutputError where a folder cannot be made or filled.

    Args:
        there: where files would be made; None: in the folder, or where it would be.
    """
    there = there or _there(folder)
    try:
        # Permissions alone do not tell: the file system may be read-only or full.
        with tempfile.NamedTemporaryFile(dir=there, prefix=".writable-"):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written, since {there} cannot ({error.strerror})") from error


def free_bytes(path: Path) -> int | None:
    """Room on the volume where `path` is, or will be; None where the volume does not tell."""
    usage = shutil.disk_usage(_there(path))
    return usage.free if usage.total else None


def lacks_inodes(path: Path) -> bool:
    """Whether the volume can take no new file, although it may have room; not every one counts them."""
    volume = os.statvfs(_there(path))
    return volume.f_files > 0 and volume.f_favail == 0


def mount_points() -> list[Path]:
    """Where something is mounted, be it a folder of the same volume; nothing where /proc does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    # Of a space and the like it has the octal number.
    places = (
        re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), line.split()[4]) for line in lines
    )
    return [Path(os.fsdecode(place)) for place in places]


def held_bytes(folder: Path) -> int:
    """What the files of a folder take on the disk; some of them may go meanwhile."""
    held = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            held += file.stat().st_blocks * 512
    return held


def _errno(error: Exception) -> int | None:
    """The system's number for what went wrong on a volume.

    Some libraries have it in their words alone, or in the error behind theirs; there it may be a network's.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return None if isinstance(error, ConnectionError) else error.errno
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else getattr(error.__cause__, "errno", None)
    return number if number in REMEDIES else None


def _elsewhere(error: Exception, path: Path) -> str:
    """The file that it was about, where that is not at `path`."""
    file = getattr(error, "filename", None) or getattr(error.__cause__, "filename", None)
    return f": {file}" if isinstance(file, str) and path.parent not in Path(file).parents else ""


def _there(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _remedy(number: int, path: Path) -> str:
    with suppress(OSError):
        if number == errno.ENOSPC and lacks_inodes(path):
            return "delete files there, or have the volume made with more inodes"
    return REMEDIES.get(number, "see to the volume")


def _free(path: Path) -> str:
    try:
        free = free_bytes(path)
    except OSError:
        free = None
    free_space = "free space unknown" if free is None else f"{free / 1e6:,.1f} MB free"
    with suppress(OSError):
        free_space += ", but no inode for a new file" if lacks_inodes(path) else ""
    return free_space
