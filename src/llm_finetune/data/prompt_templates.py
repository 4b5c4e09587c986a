"""From a record to the text that the model reads, in pieces that say what is trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from llm_finetune.data.chat_template import ChatPrompt
from llm_finetune.data.prompt_segments import (
    PromptPreambles,
    PromptSegment,
    Written,
    joined,
    with_empty_answer,
)
from llm_finetune.data.records import DataType, Instruction, InvalidRecordError, Message, Record, Text
from llm_finetune.errors import ModelError

PromptFormat = Literal["auto", "alpaca", "chat"]


class Prompt(Protocol):
    """A way to write records.

    Attributes:
        writes_special_tokens: the text holds all special tokens; the tokenizer adds none.
    """

    writes_special_tokens: bool

    def render(self, records: Sequence[Record]) -> list[Written | InvalidRecordError]:
        """Each record as it is trained on, or why it cannot be written in this way.

        Raises:
            StoppedError: a chat template had to be stopped at one of them.
        """

    def ask(self, record: Record) -> str:
        """All that stands before the answer that is wanted, as `render` writes it.

        Args:
            record: an instruction, whose output is left out of account; a conversation that ends with the
                user; or a text to go on with.

        Raises:
            InvalidRecordError: as for `render`.
        """


def prompt_of(
    prompt_format: Literal["alpaca", "chat", "text"],
    preambles: PromptPreambles,
    eos: str,
    tokenizer: Any,
    mask_history: bool = False,
) -> Prompt:
    """The prompt of that name.

    Args:
        eos: ends each answer.
        mask_history: of a conversation, train on the last answer alone.
    """
    if prompt_format == "text":
        return PlainText(eos)
    if prompt_format == "chat":
        return ChatPrompt(preambles, eos, tokenizer, mask_history)
    return SectionsPrompt(preambles, eos, mask_history)


def choose_format(
    wanted: PromptFormat, model_name: str, tokenizer: Any, data_type: DataType = "instruction"
) -> tuple[Literal["alpaca", "chat"], str]:
    """The format, and why it was chosen.

    Raises:
        ModelError: chat is wanted and the tokenizer has no chat template.
    """
    has_none = why_no_template(tokenizer)
    if wanted == "chat" and has_none:
        raise ModelError(
            f"promptFormat is chat, but the tokenizer of {model_name or 'the model'} {has_none}. "
            "Set promptFormat to alpaca."
        )
    if wanted != "auto":
        return wanted, "as promptFormat says"
    if data_type == "messages":
        if has_none:
            return "alpaca", f"the tokenizer {has_none}"
        return "chat", "the records are conversations, and the tokenizer has a template for them"
    if not re.search("chat|instruct", model_name.rstrip("/").rpartition("/")[2], re.IGNORECASE):
        return "alpaca", "the model's name says neither chat nor instruct"
    if has_none:
        return "alpaca", f"the tokenizer {has_none}"
    return "chat", "the model's name says chat or instruct, and its tokenizer has a template"


def why_no_template(tokenizer: Any) -> str:
    """Why a tokenizer cannot write conversations; empty: it can."""
    template = tokenizer.chat_template
    if isinstance(template, dict) and template and "default" not in template:
        return f"has chat templates ({', '.join(map(str, template))}), but none that is called default"
    return "" if template else "has no chat template"


class PlainText:
    """Text as it is, all of it trained on."""

    writes_special_tokens = False

    def __init__(self, eos: str) -> None:
        self._eos = eos

    def render(self, records: Sequence[Record]) -> list[Written | InvalidRecordError]:
        return [Written([[PromptSegment(self.ask(record) + self._eos, True)]]) for record in records]

    def ask(self, record: Record) -> str:
        assert isinstance(record, Text)
        return record.text


class SectionsPrompt:
    """An opening, then `### Instruction:`, `### Input:` and `### Response:` (the Alpaca format)."""

    writes_special_tokens = False

    def __init__(self, preambles: PromptPreambles, eos: str, mask_history: bool) -> None:
        self._preambles = preambles
        self._eos = eos
        self._mask_history = mask_history

    def render(self, records: Sequence[Record]) -> list[Written | InvalidRecordError]:
        return [Written([self._pieces(record)]) for record in records]

    def ask(self, record: Record) -> str:
        *before, _ = self._pieces(with_empty_answer(record))
        return "".join(piece.text for piece in before)

    def _pieces(self, record: Record) -> list[PromptSegment]:
        assert not isinstance(record, Text)
        if isinstance(record, Instruction):
            parts = [self._preambles.of(record), *_sections(record), "### Response:\n"]
            return [PromptSegment(joined(parts), False), PromptSegment(record.output + self._eos, True)]
        return self._conversation(record.messages)

    def _conversation(self, turns: Sequence[Message]) -> list[PromptSegment]:
        parts = [turns[0].content if turns[0].role == "system" else self._preambles.without_input]
        pieces: list[PromptSegment] = []
        for turn in turns:
            if turn.role == "user":
                parts.append(f"### Instruction:\n{turn.content}")
            elif turn.role == "assistant":
                prompt = joined([*parts, "### Response:\n"])
                pieces.append(PromptSegment("\n\n" + prompt if pieces else prompt, False))
                pieces.append(PromptSegment(turn.content + self._eos, True))
                parts = []
        return _with_last_answer(pieces) if self._mask_history else pieces


def _with_last_answer(pieces: Sequence[PromptSegment]) -> list[PromptSegment]:
    *before, last = pieces
    return [*(PromptSegment(piece.text, False) for piece in before), last]


def _sections(record: Instruction) -> list[str]:
    sections = {"Instruction": record.instruction, "Input": record.input}
    return [f"### {name}:\n{text}" for name, text in sections.items() if text.strip()]
