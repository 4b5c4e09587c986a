"""Records: what a row of a data set means, and the formats in which rows hold it."""

from __future__ import annotations

from llm_finetune.data.records.base import Columns, InvalidRecordError, Schema
from llm_finetune.data.records.types import (
    Conversation,
    DataType,
    Instruction,
    Message,
    Origin,
    Record,
    RecordType,
    Text,
    content_of,
    size_of,
)

__all__ = [
    "Columns",
    "Conversation",
    "DataType",
    "Instruction",
    "InvalidRecordError",
    "Message",
    "Origin",
    "Record",
    "RecordType",
    "Schema",
    "Text",
    "content_of",
    "size_of",
]
