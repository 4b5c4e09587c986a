"""Files and folders that appear under their names whole, or not at all.

They are written beside their place, under an unpredictable name: no two writers share one, and
a link that somebody has put in the way is never followed. Where a kill left such a name, `clear` ends what it
interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from llm_finetune.errors import OutputError

PARTIAL, REPLACED = "partial", "replaced"
# Without the random part an earlier version left them.
LEFT = re.compile(rf"\.(?P<name>.+?)(\.[0-9a-f]{{16}})?\.(?P<kind>{PARTIAL}|{REPLACED})")


def aside_of(path: Path, kind: str = PARTIAL) -> Path:
    """A name beside `path` that no reader uses, and that does not exist yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{kind}")


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """Gives a path aside to write to; what is there at the end of the block takes the place of `file`.

    Nothing of it stays where the block fails. Raises OSError where it cannot be renamed.
    """
    aside = aside_of(file)
    try:
        yield aside
        os.replace(aside, file)
    except BaseException:
        with suppress(OSError):  # the volume may be what failed
            aside.unlink(missing_ok=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Writes the file whole or not at all. Raises OSError where it cannot."""
    with written(file) as aside, aside.open("x", encoding="utf-8") as new:
        new.write(text)


def place_files(aside: Path, folder: Path, last: Collection[str] = ()) -> None:
    """Moves the files of one folder into another one, which may hold others.

    Args:
        last: names of the files that readers look for first, so that they arrive when all others are there.
    """
    for file in sorted(aside.iterdir(), key=lambda file: (file.name in last, file.name)):
        os.replace(file, folder / file.name)


def open_own(file: Path) -> int:
    """A descriptor to read and write a file of our own at a name that others know; made where there is none.

    Raises:
        OutputError: what stands there is a link, or no file: no run leaves such a thing.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if not file.is_symlink():
            raise
        raise OutputError(
            f"{file}: a link to {os.readlink(file)}, which no run puts there; delete it"
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OutputError(f"{file}: no file, or one with a second name, which no run puts there; delete it")
    return descriptor


def own_folder(path: Path) -> None:
    """Makes a folder of our own at a name that others know, where there is none.

    Raises:
        OutputError: what stands there is a link: no run leaves one.
        OSError: it cannot be made.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise OutputError(f"{path}: a link to {os.readlink(path)}, which no run puts there; delete it")


def fresh_file(file: Path) -> None:
    """An empty file at a name that others know, in place of whatever stood there."""
    file.unlink(missing_ok=True)
    file.touch(exist_ok=False)


def place(aside: Path, folder: Path) -> None:
    """Puts the folder that was written aside in its place; what stood there goes once it is on the disk."""
    _to_disk(aside)
    waiting = aside_of(folder, REPLACED)
    was_there = folder.exists()
    if was_there:
        os.replace(folder, waiting)
    try:
        os.replace(aside, folder)
    except BaseException:
        if was_there:
            os.replace(waiting, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(waiting, ignore_errors=True)


def clear(folder: Path, names: Collection[str]) -> None:
    """Ends what a kill interrupted in a folder without other writers; what was to be replaced is not lost.

    Args:
        names: patterns of the names that were on their way.
    """
    left = [(LEFT.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    for match, path in left:
        if match is None or not any(fnmatchcase(match["name"], pattern) for pattern in names):
            continue
        final = path.with_name(match["name"])
        with suppress(OSError):  # what is to be written reports a volume that cannot be
            if match["kind"] == REPLACED and not os.path.lexists(final):
                os.replace(path, final)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def sync(path: Path) -> None:
    """Has a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not every file system keeps names apart from what they name.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _to_disk(folder: Path) -> None:
    """A network file system may tell only now that it has no room."""
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)
