"""A record as text, in pieces that say what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llm_finetune.data.records import Conversation, Instruction, Message, Record


class PromptSegment(NamedTuple):
    """A part of a prompt. The parts in order are the whole text."""

    text: str
    loss_mask: bool


class Written(NamedTuple):
    """A record as it is trained on.

    Attributes:
        prompts: one, or where a template writes a conversation otherwise with each answer, one for each.
        lost_thoughts: answers whose thoughts the template leaves out.
    """

    prompts: list[list[PromptSegment]]
    lost_thoughts: int = 0


@dataclass(frozen=True)
class PromptPreambles:
    """How a prompt begins; empty: with its first section."""

    with_input: str
    without_input: str

    def of(self, record: Instruction) -> str:
        return self.with_input if record.input.strip() else self.without_input


def with_empty_answer(record: Record) -> Record:
    if isinstance(record, Conversation):
        return Conversation((*record.messages, Message("assistant", "")))
    assert isinstance(record, Instruction)
    return record._replace(output="")


def joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)
