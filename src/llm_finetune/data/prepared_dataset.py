"""The prepared set on disk: written once, then memory-mapped by every rank.

<name>/
    prepared.json              the summary and the checksums of the other files; written last
    train/                     and validation/, where there is one
        provenance.bin         int64 (records, 3): source, file and row of each record
        rows.bin               int64: record numbers, row after row
        row_offsets.bin        int64 (rows + 1): where each row begins in rows.bin
        tokens/                one such folder for each token sequence that a record has
            input_ids.bin      int32: all tokens, record after record
            trained.bin        bool: one for each token
            offsets.bin        int64 (records + 1): where each record begins
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from llm_finetune.data.records import Origin
from llm_finetune.data.stats import Summary
from llm_finetune.errors import DataError
from llm_finetune.runtime.formatting import size
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import held_bytes, writing
from llm_finetune.storage.stale_files import remove_abandoned

IGNORE_INDEX = -100
_SUMMARY = "prepared.json"
_CHECKSUMS, _OWN = "checksums", "checksum"
_BLOCK_BYTES = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One record in a row.

    Attributes:
        input_ids: int32, shape (tokens,).
        labels: int64, shape (tokens,): the token itself where it is trained on, else -100. The first token
            never is: nothing predicts it.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class PackedSequence:
    """The records that share one row. Nothing attends or predicts from one to the next."""

    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        """Tokens in the row."""
        return sum(len(segment.input_ids) for segment in self.samples)


class Split:
    """The rows of one split, memory-mapped.

    Raises:
        ValueError: the files do not fit together.
        OSError: a file is missing.
    """

    def __init__(self, folder: Path, files: list[list[str]]) -> None:
        self._files = files
        self._provenance = _mapped(folder / "provenance.bin", np.int64).reshape(-1, 3)
        self._rows = _mapped(folder / "rows.bin", np.int64)
        self._row_offsets = _mapped(folder / "row_offsets.bin", np.int64)
        self._input_ids = _mapped(folder / "tokens/input_ids.bin", np.int32)
        self._trained = _mapped(folder / "tokens/trained.bin", np.bool_)
        self._offsets = _mapped(folder / "tokens/offsets.bin", np.int64)
        records = len(self._offsets) - 1
        if not (
            len(self._provenance) == len(self._rows) == records == self._row_offsets[-1]
            and len(self._input_ids) == len(self._trained) == self._offsets[-1]
        ):
            raise ValueError(f"{folder}: the files do not fit together")

    def __len__(self) -> int:
        return len(self._row_offsets) - 1

    def __getitem__(self, index: int) -> PackedSequence:
        return PackedSequence(tuple(self._segment(record) for record in self._records(index)))

    def provenance(self, index: int) -> list[tuple[int, str, int]]:
        """For each record of a row: number of the source, name of the file in it, row in that."""
        origins = (Origin(*self._provenance[record].tolist()) for record in self._records(index))
        return [(source, self._files[source][file], row) for source, file, row in origins]

    def first_records(self, count: int) -> list[Sample]:
        """Up to so many records, in the order of the files and not of the rows."""
        return [self._segment(record) for record in range(min(count, len(self._provenance)))]

    def _records(self, index: int) -> NDArray[np.int64]:
        index = range(len(self))[index]
        return self._rows[self._row_offsets[index] : self._row_offsets[index + 1]]

    def _segment(self, record: int) -> Sample:
        place = slice(self._offsets[record], self._offsets[record + 1])
        input_ids = self._input_ids[place]
        labels = np.where(self._trained[place], input_ids, IGNORE_INDEX).astype(np.int64)
        labels[0] = IGNORE_INDEX
        return Sample(input_ids, labels)


@dataclass(frozen=True)
class Prepared:
    """A prepared set; `validation` is None where none was wanted."""

    folder: Path
    summary: Summary
    train: Split
    validation: Split | None


def open_prepared(folder: Path, patience_seconds: float = 30, *, verify: bool = True) -> Prepared:
    """Memory-map a prepared set.

    Args:
        patience_seconds: how long to try again, where a network file system is slow to show what another
            machine has written.
        verify: hold every byte against its checksum; False where another process of this machine just did.

    Raises:
        DataError: the set is not there, not whole, or not what was prepared.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _open(folder, verify)
        except _BROKEN as error:
            if time.monotonic() > deadline:
                raise DataError(
                    f"{folder}: no whole prepared data set ({error}). Prepare it again."
                ) from error
        time.sleep(0.2)


def is_whole(folder: Path) -> bool:
    """Whether a prepared set is there with all its files, every byte as written; damage is logged."""
    damage = _damage(folder)
    if damage and folder.exists():
        log.warning("%s: these prepared data are damaged (%s); they are prepared again", folder, damage)
    return damage is None


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name `folder` in the end; on failure nothing of it stays.

    Raises:
        OutputError: it cannot be written.
    """
    work = atomic.aside_of(folder)
    try:
        with writing(folder, preserved=lambda: f"{size(held_bytes(work))} of it were written"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folder.parent.glob(f".{folder.name}.*"))
            work.mkdir()
            yield work
            _publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_summary(folder: Path, summary: Summary) -> None:
    """The last file of a set: only with it is the set whole."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    checksums = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    content = {**asdict(summary), _CHECKSUMS: checksums}
    content[_OWN] = _checksum_of(content)
    (folder / _SUMMARY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _damage(folder: Path) -> Exception | None:
    try:
        _open(folder, verify=True)
    except _BROKEN as error:
        return error
    return None


def _open(folder: Path, verify: bool) -> Prepared:
    content = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    if content.pop(_OWN) != _checksum_of(content):
        raise ValueError(f"{_SUMMARY} is not as it was written")
    checksums = content.pop(_CHECKSUMS)
    if verify:
        for name, expected in checksums.items():
            if _checksum(folder / name) != expected:
                raise ValueError(f"{name} is not as it was written")
    summary = Summary.from_json(content)
    train = Split(folder / "train", summary.train.files)
    validation = Split(folder / "validation", summary.validation.files) if summary.validation else None
    return Prepared(folder, summary, train, validation)


def _checksum(path: Path) -> str:
    """Of a file that a disk or a copy may have changed: nearly as fast as memory; no guard against intent."""
    checksum = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum.update(block)
    return checksum.hexdigest()


def _checksum_of(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    return np.memmap(path, dtype, mode="r").view(np.ndarray)


def _publish(work: Path, folder: Path) -> None:
    if not _damage(folder):
        return  # another process was faster; the name says that its content is the same
    shutil.rmtree(folder, ignore_errors=True)
    try:
        atomic.place(work, folder)
    except OSError:
        if _damage(folder):
            raise
