"""Conversations as most tools write them: a column `messages` of {role, content}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_finetune.data.limits import CONVERSATION_CHARACTERS
from llm_finetune.data.records.base import Columns, InvalidRecordError, RecordFormat, Schema
from llm_finetune.data.records.fields import absent, optional_text, required_text, shown
from llm_finetune.data.records.types import Conversation, Message, size_of

ROLES = ("system", "user", "assistant")


class Messages(RecordFormat):
    """A conversation per row."""

    name = "messages"
    type = "messages"
    reads = ("messages",)

    def required(self, columns: Columns) -> list[str]:
        """See `RecordFormat`."""
        return [columns.messages]

    def parse(self, row: Mapping[str, Any], schema: Schema) -> Conversation:
        """See `RecordFormat`."""
        column = schema.columns.messages
        if column not in row:
            raise InvalidRecordError(absent(row, column))
        return conversation(row[column], column)


def conversation(messages: Any, column: str) -> Conversation:
    """The conversation of a list of {role, content}.

    Raises:
        InvalidRecordError: it is not one that can be trained on.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidRecordError(
            f"column {column!r} is {shown(messages)}; expected a list of {{role, content}}"
        )
    record = Conversation(tuple(_message(entry, f"{column}[{i}]") for i, entry in enumerate(messages)))
    roles = [message.role for message in record.messages]
    if "assistant" not in roles:
        raise InvalidRecordError(
            f"column {column!r} has no assistant turn; expected at least one, to train on"
        )
    if size_of(record) * roles.count("assistant") > CONVERSATION_CHARACTERS:
        raise InvalidRecordError(
            f"column {column!r} has {roles.count('assistant'):,} answers in {size_of(record):,} "
            "characters, and each is read with all before it: divide the conversation"
        )
    if "system" in roles[1:]:
        raise InvalidRecordError(f"column {column!r} has a system turn behind others; expected it first")
    if roles[roles[0] == "system"] != "user":
        raise InvalidRecordError(
            f"column {column!r} begins with the assistant; expected the user's turn first"
        )
    return record


def _message(entry: Any, where: str) -> Message:
    if not isinstance(entry, Mapping):
        raise InvalidRecordError(f"{where} is {shown(entry)}; expected an object {{role, content}}")
    role = entry.get("role")
    if role == "tool" or entry.get("tool_calls"):
        raise InvalidRecordError(
            f"{where} uses a tool; expected {', '.join(ROLES)} alone: leave such records out"
        )
    if role not in ROLES:
        raise InvalidRecordError(f"{where}: the role is {shown(role)}; expected one of {', '.join(ROLES)}")
    if "content" not in entry:
        raise InvalidRecordError(f"{where}: {absent(entry, 'content')}")
    try:
        if role == "assistant":
            return Message(role, required_text(entry, "content", "an answer"))
        return Message(role, optional_text(entry, "content"))
    except InvalidRecordError as problem:
        raise InvalidRecordError(f"{where}: {problem}") from None
