"""The records of all files, with every row that is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llm_finetune.data.records import InvalidRecordError, Origin, Record, Schema
from llm_finetune.data.records.formats import parse_record
from llm_finetune.data.sources.local import RowFile
from llm_finetune.errors import DataError

Files = Sequence[Sequence[RowFile]]

SHOWN_PROBLEMS = 20


class Problems:
    """What is wrong with the records: the first twenty in words, the rest counted."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def add(self, problem: str) -> None:
        self._count += 1
        if self._count <= SHOWN_PROBLEMS:
            self._shown.append(problem)

    def raise_any(self) -> None:
        """Raises:
        DataError: there were any.
        """
        if self._count > SHOWN_PROBLEMS:
            self._shown.append(f"These are the first {SHOWN_PROBLEMS} of {self._count:,} problems.")
        if self._shown:
            raise DataError(self._shown)


def read_records(files: Files, schema: Schema, problems: Problems) -> Iterator[tuple[Origin, Record]]:
    """Every record in order. Rows that are none, and files that end badly, are added to `problems`."""
    for source, group in enumerate(files):
        for number, file in enumerate(group):
            try:
                for row, raw in file.rows():
                    try:
                        yield Origin(source, number, row), parse_record(raw, schema)
                    except InvalidRecordError as problem:
                        problems.add(f"{file.location}, row {row}: {problem}")
            except DataError as error:
                for line in error.problems:
                    problems.add(line)


def where(files: Files, origin: Origin) -> str:
    """The place of a record, as a person finds it."""
    return f"{files[origin.source][origin.file].location}, row {origin.row}"
