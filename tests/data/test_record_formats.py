"""Which format a set has, by its first row and the columns that the settings name."""

from __future__ import annotations

import pytest

from llm_finetune.data.records import Columns, Conversation, Instruction, Text
from llm_finetune.data.records.formats import FORMATS, infer_schema, parse_record
from llm_finetune.errors import DataError

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
ROW = {"instruction": "greet", "output": "hi", "messages": TALK, "text": "hello"}


def test_names_are_distinct_and_a_type_has_a_format() -> None:
    assert len({one.name for one in FORMATS}) == len(FORMATS)
    assert {one.type for one in FORMATS} == {"instruction", "messages", "text"}


@pytest.mark.parametrize(
    ("data_type", "kind"),
    [("auto", Conversation), ("messages", Conversation), ("instruction", Instruction), ("text", Text)],
)
def test_the_type_that_is_asked_for_is_read(data_type: str, kind: type) -> None:
    schema = infer_schema(ROW, data_type, Columns(), "a.json, row 1")  # type: ignore[arg-type]
    assert isinstance(parse_record(ROW, schema), kind)


def test_a_column_that_is_named_decides() -> None:
    schema = infer_schema({**ROW, "story": "once"}, "auto", Columns(text="story"), "a.json, row 1")
    assert parse_record({"story": "once"}, schema) == Text("once")


def test_a_column_that_is_named_and_absent_is_an_error_whatever_else_is_there() -> None:
    with pytest.raises(DataError, match=r"a\.json, row 1: the columns are .*; expected 'chat' \(messages\)"):
        infer_schema(
            {"instruction": "greet", "output": "hi"}, "auto", Columns(messages="chat"), "a.json, row 1"
        )


def test_the_texts_of_a_record_can_be_replaced() -> None:
    for name in ("messages", "instruction", "text"):
        record = parse_record(ROW, infer_schema(ROW, name, Columns(), "a"))  # type: ignore[arg-type]
        assert record.with_texts(record.texts()) == record
        assert record.with_texts([text.upper() for text in record.texts()]) != record
