"""What a record format is. A new one is a module beside this one and a line in the list of `__init__`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_finetune.data.records.types import Record, RecordType


@dataclass(frozen=True)
class Columns:
    """What the columns are called."""

    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    messages: str = "messages"
    text: str = "text"

    def renamed(self) -> set[str]:
        """The columns that do not have their usual name: `instruction`, `input`, …"""
        return {column for column, name in vars(self).items() if name != column}


@dataclass(frozen=True)
class Schema:
    """How the rows of a set become records.

    Attributes:
        format: name of the record format.
        type: what its records are.
        first_row: the columns of the first row.
    """

    format: str
    type: RecordType
    columns: Columns
    first_row: tuple[str, ...]


class InvalidRecordError(Exception):
    """A row that is not a record: which column, what was found, what was expected."""


class RecordFormat(ABC):
    """A way in which rows hold records.

    Attributes:
        name: in `--dry-run`, the log and errors.
        type: what its records are; `dataType` names it.
        reads: the columns that it reads, by their usual names. One that the settings name must be there.
    """

    name: ClassVar[str]
    type: ClassVar[RecordType]
    reads: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def required(self, columns: Columns) -> list[str]:
        """The columns that every row must have."""

    def matches(self, first_row: Mapping[str, Any], columns: Columns) -> bool:
        """Whether a set that begins with this row has this format."""
        return all(column in first_row for column in self.required(columns))

    @abstractmethod
    def parse(self, row: Mapping[str, Any], schema: Schema) -> Record:
        """The record of a row.

        Raises:
            InvalidRecordError: the row is not what the schema says.
        """
