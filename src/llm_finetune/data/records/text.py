"""Plain text in a column `text`, or the paragraphs of a text file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_finetune.data.records.base import Columns, RecordFormat, Schema
from llm_finetune.data.records.fields import required_text
from llm_finetune.data.records.types import Text


class PlainText(RecordFormat):
    """A text per row."""

    name = "text"
    type = "text"
    reads = ("text",)

    def required(self, columns: Columns) -> list[str]:
        """See `RecordFormat`."""
        return [columns.text]

    def parse(self, row: Mapping[str, Any], schema: Schema) -> Text:
        """See `RecordFormat`."""
        return Text(required_text(row, schema.columns.text, "text"))
