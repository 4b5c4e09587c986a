"""The list of record formats, the choice of one by the first row, and the record of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_finetune.data.limits import RECORD_CHARACTERS
from llm_finetune.data.records.base import Columns, InvalidRecordError, RecordFormat, Schema
from llm_finetune.data.records.fields import shown
from llm_finetune.data.records.instruction import InstructionColumns
from llm_finetune.data.records.messages import Messages
from llm_finetune.data.records.text import PlainText
from llm_finetune.data.records.types import DataType, Record, size_of
from llm_finetune.errors import DataError

# In the order in which they are tried on the first row.
FORMATS: tuple[RecordFormat, ...] = (
    Messages(),
    InstructionColumns(),
    PlainText(),
)

_BY_NAME = {one.name: one for one in FORMATS}


def infer_schema(first_row: Any, data_type: DataType, columns: Columns, where: str) -> Schema:
    """Decide by the columns of the first row what every row is.

    Raises:
        DataError: they are not the columns of `data_type`, or of no format at all.
    """
    if not isinstance(first_row, Mapping):
        raise DataError(f"{where}: a row is {shown(first_row)}; expected an object with named columns.")
    candidates = _candidates(data_type, columns)
    for one in candidates:
        if one.matches(first_row, columns):
            return Schema(one.name, one.type, columns, tuple(first_row))
    expected = " or ".join(
        f"{' and '.join(map(repr, one.required(columns)))} ({one.name})" for one in candidates
    )
    raise DataError(
        f"{where}: the columns are {', '.join(map(repr, first_row)) or 'none'}; expected {expected}. "
        "Say what they are called by instructionColumnName, inputColumnName, outputColumnName, "
        "messagesColumnName or textColumnName, and what a row is by dataType."
    )


def _candidates(data_type: DataType, columns: Columns) -> list[RecordFormat]:
    """The formats of the type that was asked for, else those that read a column that was named, else all."""
    if data_type != "auto":
        return [one for one in FORMATS if one.type == data_type]
    renamed = columns.renamed()
    return [one for one in FORMATS if renamed & set(one.reads)] or list(FORMATS)


def parse_record(row: Any, schema: Schema) -> Record:
    """Check one row.

    Raises:
        InvalidRecordError: it is not what the schema says.
    """
    if not isinstance(row, Mapping):
        raise InvalidRecordError(f"the row is {shown(row)}; expected an object with named columns")
    record = _BY_NAME[schema.format].parse(row, schema)
    if (size := size_of(record)) > RECORD_CHARACTERS:
        raise InvalidRecordError(
            f"the record has {size:,} characters; expected {RECORD_CHARACTERS:,} at most: divide it"
        )
    return record
