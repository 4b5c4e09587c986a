"""Waits for files that a user copies to the volume while the workers run already: data, and a model's folder.

`kubectl cp` streams into the file's final name: a file is there once it grows no more and has its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llm_finetune.config import Settings
from llm_finetune.errors import DataError, ModelError, UserError
from llm_finetune.launcher.file_integrity import missing_end

POLL_SECONDS = 2.0
STILL_SECONDS = 10.0  # without growth, a file may be whole
OLD_SECONDS = 60.0  # a file that was last written so long ago is not being copied
LOG_INTERVAL_SECONDS = 60.0
COMING = "is still being copied"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Awaited:
    """A file or folder that the settings name."""

    key: str
    path: Path
    error: type[UserError]


@dataclass(frozen=True)
class Copying:
    """How a user of this release copies something to the volume.

    Attributes:
        pod: that has the volume; empty where the release has none.
    """

    pod: str
    namespace: str

    def command(self, path: Path) -> str:
        """What to run for `path`."""
        if not self.pod:
            return f"copy it onto the volume, as {path}"
        kubectl = f"kubectl -n {self.namespace}" if self.namespace else "kubectl"
        folder = f"{kubectl} exec {self.pod} -- mkdir -p '{path.parent}'"
        return f"run: {folder} && {kubectl} cp '{path.name}' '{self.pod}:{path}'"


def awaited_on(volume: Path, settings: Settings) -> Iterator[Awaited]:
    """What the settings want to read from the volume. What lies elsewhere comes with the image, or never."""
    named: list[tuple[str, str | None, type[UserError]]] = [
        ("train.dataFile", settings.train.data_file, DataError),
        ("eval.dataFile", settings.eval.data_file, DataError),
        ("modelNameOrPath", settings.model_name_or_path, ModelError),
    ]
    if not settings.do_train:
        named.append(("quantize.peftModelDir", settings.quantize.peft_model_dir, ModelError))
    for key, text, error in named:
        if text and Path(text).is_absolute() and Path(text).is_relative_to(volume):
            yield Awaited(f"distributed.{key}", Path(text), error)


def await_all(wanted: Iterator[Awaited], minutes: float, copying: Copying) -> None:
    """Waits until all that is wanted is there and whole, each with the same deadline.

    Raises:
        DataError, ModelError: it did not come, or has no end; the last line says what to run.
    """
    end = time.monotonic() + minutes * 60
    for one in wanted:
        _await(one, end, minutes, copying)


def _await(one: Awaited, end: float, minutes: float, copying: Copying) -> None:
    seen = _sizes(one.path)
    is_old = bool(seen) and time.time() - max(written for _, written in seen.values()) > OLD_SECONDS
    still_since = time.monotonic() - (STILL_SECONDS if is_old else 0)
    told = 0.0
    while True:
        state = COMING if seen else _absence(one.path)
        if seen:
            still = time.monotonic() - still_since
            if still >= STILL_SECONDS:
                flaw = next(filter(None, map(missing_end, seen)), None)
                if flaw is None:
                    return
                state = f"is cut short: {flaw}"
                if is_old or still >= OLD_SECONDS:
                    raise one.error(
                        [f"{one.key}: {one.path} {state}", f"Copy it again; {_run(one, copying)}"]
                    )
        now = time.monotonic()
        if now >= end:
            what = f"{one.key}: {one.path} {state}, after {minutes:g} min (storage.uploadTimeoutMinutes)"
            raise one.error([what, _run(one, copying)])
        if now - told >= LOG_INTERVAL_SECONDS:
            told = now
            left = (end - now) / 60
            hint = "" if state == COMING else f"; {_run(one, copying)}"
            log.info("%s: %s %s; waiting %.0f min more%s", one.key, one.path, state, left, hint)
        time.sleep(min(POLL_SECONDS, max(0.0, end - now)))
        before, seen = seen, _sizes(one.path)
        if seen != before:
            still_since, is_old = time.monotonic(), False


def _run(one: Awaited, copying: Copying) -> str:
    return copying.command(one.path)


def _sizes(path: Path) -> dict[Path, tuple[int, float]]:
    """Size and time of the last write of the file, or of each file in the folder; empty: nothing there."""
    found: dict[Path, tuple[int, float]] = {}
    with suppress(OSError):  # a folder on the way that this user may not enter: `_absence` says so
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            with suppress(OSError):  # deleted again, or on a network file system that is slow to show it
                if file.is_file():
                    stat = file.stat()
                    found[file] = (stat.st_size, stat.st_mtime)
    return found


def _absence(path: Path) -> str:
    """Why nothing is seen there, in words."""
    try:
        path.stat()
    except FileNotFoundError:
        return "is not there yet"
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    return "is an empty folder yet" if path.is_dir() else "is no file and no folder"
