"""What a record is, whatever its format: an instruction and its answer, a conversation, or text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

RecordType = Literal["messages", "instruction", "text"]
DataType = Literal["auto", RecordType]


class Instruction(NamedTuple):
    """A task and its answer. `instruction` or `input` may be empty, not both; `output` never is."""

    instruction: str
    input: str
    output: str

    def texts(self) -> list[str]:
        """All that it says, in order."""
        return list(self)

    def with_texts(self, texts: Sequence[str]) -> Instruction:
        """The same record with other texts, as many as `texts` returns."""
        return Instruction(*texts)


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Conversation(NamedTuple):
    """Perhaps a system message, then a user's, and at least one of the assistant's."""

    messages: tuple[Message, ...]

    def texts(self) -> list[str]:
        """See `Instruction`."""
        return [message.content for message in self.messages]

    def with_texts(self, texts: Sequence[str]) -> Conversation:
        """See `Instruction`."""
        pairs = zip(self.messages, texts, strict=True)
        return Conversation(tuple(Message(message.role, text) for message, text in pairs))


class Text(NamedTuple):
    """Text to continue pretraining with."""

    text: str

    def texts(self) -> list[str]:
        """See `Instruction`."""
        return [self.text]

    def with_texts(self, texts: Sequence[str]) -> Text:
        """See `Instruction`."""
        return Text(*texts)


Record = Instruction | Conversation | Text


class Origin(NamedTuple):
    """Where a record stands: number of the source, number of the file in it, row in that (from 1)."""

    source: int
    file: int
    row: int


def content_of(record: Record) -> str:
    """All that a record says, in one string, which equal records share."""
    if isinstance(record, Conversation):
        return "\0".join(part for message in record.messages for part in message)
    return "\0".join(record)


def size_of(record: Record) -> int:
    """Characters that a record says."""
    return sum(map(len, record.texts()))
