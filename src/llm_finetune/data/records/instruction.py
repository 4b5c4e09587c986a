"""Alpaca's columns: `instruction`, `input` and `output`; or `input` and `output` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_finetune.data.records.base import Columns, InvalidRecordError, RecordFormat, Schema
from llm_finetune.data.records.fields import absent, optional_text, required_text
from llm_finetune.data.records.types import Instruction


class InstructionColumns(RecordFormat):
    """A task and its answer per row."""

    name = "instruction"
    type = "instruction"
    reads = ("instruction", "input", "output")

    def required(self, columns: Columns) -> list[str]:
        """See `RecordFormat`."""
        # A column that was named must be there: a misspelled name would leave out what it holds.
        named = columns.renamed()
        return [columns.output, *(getattr(columns, one) for one in ("instruction", "input") if one in named)]

    def parse(self, row: Mapping[str, Any], schema: Schema) -> Instruction:
        """See `RecordFormat`."""
        columns = schema.columns
        if columns.instruction in schema.first_row and columns.instruction not in row:
            raise InvalidRecordError(absent(row, columns.instruction))
        instruction = optional_text(row, columns.instruction)
        context = optional_text(row, columns.input)
        if not instruction.strip() and not context.strip():
            raise InvalidRecordError(
                f"columns {columns.instruction!r} and {columns.input!r} are empty; expected a question"
            )
        return Instruction(instruction, context, required_text(row, columns.output, "an answer"))
