"""The files behind the sources: those on disk, and the splits of data sets on the Hugging Face Hub."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_finetune.data.sources.file_formats import SUFFIXES, kind_of, read_rows
from llm_finetune.data.sources.source import Source
from llm_finetune.data.sources.walk import visible_files
from llm_finetune.errors import DataError


class RowFile(Protocol):
    """Anything that gives raw rows: a local file, or one split of a Hub data set."""

    @property
    def name(self) -> str:
        """What it is called inside its source; the same wherever the source lies."""

    @property
    def location(self) -> str:
        """What a person looks for when a row of it is wrong."""

    def digest(self) -> str:
        """A name for its content: equal digests mean equal rows."""

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Row number from 1 on (the line, where the format has lines) and the row as it was read."""


@dataclass(frozen=True)
class LocalFile:
    """One file on disk."""

    path: Path
    name: str

    @property
    def location(self) -> str:
        return str(self.path)

    def digest(self) -> str:
        try:
            with self.path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from error

    def rows(self) -> Iterator[tuple[int, Any]]:
        return read_rows(self.path)


@dataclass(frozen=True)
class Catalog:
    """The files of all sources: one list of files for each source.

    Attributes:
        validation_from: where the validation records come from, in words; None: a share of training.
    """

    training: list[Sequence[RowFile]]
    validation: list[Sequence[RowFile]]
    validation_from: str | None


def open_sources(training: Sequence[Source], validation: Sequence[Source], with_validation: bool) -> Catalog:
    """Find the files of every source; data sets of the Hub are downloaded.

    Raises:
        DataError: something is missing, cannot be read or is of an unknown kind.
    """
    validation = validation if with_validation else ()
    training_files: list[Sequence[RowFile]] = []
    validation_files: list[Sequence[RowFile]] = [_files_of(source) for source in validation]
    validation_from = "the validation source" if validation else None
    for source in training:
        if source.dataset is None:
            training_files.append(_files_of(source))
            continue
        from llm_finetune.data.sources import hub

        data_set = hub.load(source)
        training_files.append([data_set.split(source.split or "train")])
        held_out = data_set.held_out_split(source.split or "train")
        if with_validation and not validation and held_out:
            validation_files.append([held_out])
            validation_from = f"the split {held_out.split!r} of {source.dataset}"
    return Catalog(training_files, validation_files, validation_from)


def _files_of(source: Source) -> Sequence[RowFile]:
    if source.files is None:
        from llm_finetune.data.sources import hub

        return [hub.load(source).split(source.split or "train")]
    return _local_files(source.files)


def _local_files(root: Path) -> list[RowFile]:
    if root.is_dir():
        visible = [(path, path.relative_to(root)) for path in visible_files(root)]
        if not visible:
            raise DataError(f"{root}: the directory holds no data file. Allowed are {SUFFIXES}.")
    elif root.is_file():
        visible = [(root, Path(root.name))]
    else:
        raise DataError(_missing(root))
    unknown = [str(path) for path, _ in visible if not kind_of(path)]
    if unknown:
        raise DataError([f"{path}: not a kind of data file. Allowed are {SUFFIXES}." for path in unknown])
    return [LocalFile(path, name.as_posix()) for path, name in visible]


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: there is no such file, nor the directory {path.parent}."
    near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()])
    hint = f" Near names there: {', '.join(near)}." if near else ""
    return f"{path}: there is no such file or directory.{hint}"
