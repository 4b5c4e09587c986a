"""From a record to the text that the model reads, in pieces that say what is trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from llm_finetune.data.records import BadRowError, Instruction, Messages, Record, Text, Turn
from llm_finetune.errors import ModelError

PromptFormat = Literal["auto", "sections", "chat"]


class Piece(NamedTuple):
    """A part of a prompt. The parts in order are the whole text."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Openings:
    """How a prompt begins; empty: with its first section."""

    with_input: str
    without_input: str

    def of(self, record: Instruction) -> str:
        return self.with_input if record.input.strip() else self.without_input


class Prompt(Protocol):
    """A way to write records.

    Attributes:
        writes_special_tokens: the text holds all special tokens; the tokenizer adds none.
    """

    writes_special_tokens: bool

    def render(self, record: Record) -> list[Piece]:
        """Raises:
        BadRowError: the record cannot be written in this way.
        """

    def ask(self, record: Record) -> str:
        """All that stands before the answer that is wanted, as `render` writes it.

        Args:
            record: an instruction, whose output is left out of account; a conversation that ends with the
                user; or a text to go on with.

        Raises:
            BadRowError: as for `render`.
        """


def prompt_of(
    prompt_format: Literal["sections", "chat", "text"], openings: Openings, eos: str, tokenizer: Any
) -> Prompt:
    """The prompt of that name.

    Args:
        eos: ends each answer.
    """
    if prompt_format == "text":
        return PlainText(eos)
    if prompt_format == "chat":
        return ChatPrompt(openings, eos, tokenizer)
    return SectionsPrompt(openings, eos)


def choose_format(
    wanted: PromptFormat, model_name: str, tokenizer: Any
) -> tuple[Literal["sections", "chat"], str]:
    """The format, and why it was chosen.

    Raises:
        ModelError: chat is wanted and the tokenizer has no chat template.
    """
    has_template = bool(tokenizer.chat_template)
    if wanted == "chat" and not has_template:
        raise ModelError(
            f"promptFormat is chat, but the tokenizer of {model_name or 'the model'} has no chat template. "
            "Set promptFormat to sections."
        )
    if wanted != "auto":
        return wanted, "as promptFormat says"
    if not re.search("chat|instruct", model_name.rstrip("/").rpartition("/")[2], re.IGNORECASE):
        return "sections", "the model's name says neither chat nor instruct"
    if not has_template:
        return "sections", "the tokenizer has no chat template"
    return "chat", "the model's name says chat or instruct, and its tokenizer has a template"


class PlainText:
    """Text as it is, all of it trained on."""

    writes_special_tokens = False

    def __init__(self, eos: str) -> None:
        self._eos = eos

    def render(self, record: Record) -> list[Piece]:
        assert isinstance(record, Text)
        return [Piece(record.text + self._eos, True)]

    def ask(self, record: Record) -> str:
        assert isinstance(record, Text)
        return record.text


class SectionsPrompt:
    """An opening, then `### Instruction:`, `### Input:` and `### Response:` (the Alpaca format)."""

    writes_special_tokens = False

    def __init__(self, openings: Openings, eos: str) -> None:
        self._openings = openings
        self._eos = eos

    def render(self, record: Record) -> list[Piece]:
        assert not isinstance(record, Text)
        if isinstance(record, Instruction):
            parts = [self._openings.of(record), *_sections(record), "### Response:\n"]
            return [Piece(_joined(parts), False), Piece(record.output + self._eos, True)]
        return self._conversation(record.turns)

    def ask(self, record: Record) -> str:
        *before, _ = self.render(_with_empty_answer(record))
        return "".join(piece.text for piece in before)

    def _conversation(self, turns: Sequence[Turn]) -> list[Piece]:
        parts = [turns[0].content if turns[0].role == "system" else self._openings.without_input]
        pieces: list[Piece] = []
        for turn in turns:
            if turn.role == "user":
                parts.append(f"### Instruction:\n{turn.content}")
            elif turn.role == "assistant":
                prompt = _joined([*parts, "### Response:\n"])
                pieces.append(Piece("\n\n" + prompt if pieces else prompt, False))
                pieces.append(Piece(turn.content + self._eos, True))
                parts = []
        return pieces


class ChatPrompt:
    """The tokenizer's own chat template."""

    writes_special_tokens = True

    def __init__(self, openings: Openings, eos: str, tokenizer: Any) -> None:
        self._openings = openings
        self._eos = eos
        self._tokenizer = tokenizer
        self._takes_system = self._renders_system()

    def render(self, record: Record) -> list[Piece]:
        turns = self._turns(record)
        pieces: list[Piece] = []
        written = ""
        for i, turn in enumerate(turns):
            if turn.role == "assistant":
                prompt, answered = self._apply(turns[:i], True), self._apply(turns[: i + 1], False)
                if not (prompt.startswith(written) and answered.startswith(prompt)):
                    raise BadRowError(
                        "the chat template writes earlier turns differently once later ones follow, so what "
                        "is trained on would not be what is asked for. Set promptFormat to sections"
                    )
                pieces.append(Piece(prompt[len(written) :], False))
                pieces += self._answer(answered[len(prompt) :], last=i == len(turns) - 1)
                written = answered
        return pieces

    def ask(self, record: Record) -> str:
        return self._apply(self._turns(_with_empty_answer(record))[:-1], True)

    def _answer(self, text: str, last: bool) -> list[Piece]:
        """What follows the end-of-sequence token (often a line end) is never asked for, nor trained on."""
        end = text.rfind(self._eos) + len(self._eos)
        if self._eos in text:
            return [Piece(text[:end], True), Piece(text[end:], False)]
        return [Piece(text + self._eos if last else text, True)]

    def _turns(self, record: Record) -> list[Turn]:
        assert not isinstance(record, Text)
        if isinstance(record, Instruction):
            question = _joined([record.instruction, record.input])
            conversation = [Turn("user", question), Turn("assistant", record.output)]
            opening = self._openings.of(record)
            turns = [Turn("system", opening), *conversation] if opening else conversation
        else:
            last = max(i for i, turn in enumerate(record.turns) if turn.role == "assistant")
            turns = list(record.turns[: last + 1])
        if turns[0].role == "system" and not self._takes_system:
            turns[:2] = [Turn("user", _joined([turns[0].content, turns[1].content]))]
        return turns

    def _apply(self, turns: Sequence[Turn], add_generation_prompt: bool) -> str:
        import jinja2

        messages = [turn._asdict() for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise BadRowError(f"the tokenizer's chat template refuses the conversation: {error}") from error
        return str(text)

    def _renders_system(self) -> bool:
        probe = [Turn("system", "be brief"), Turn("user", "hello")]
        try:
            return "be brief" in self._apply(probe, True)
        except BadRowError:
            return False


def _with_empty_answer(record: Record) -> Record:
    if isinstance(record, Messages):
        return Messages((*record.turns, Turn("assistant", "")))
    assert isinstance(record, Instruction)
    return record._replace(output="")


def _sections(record: Instruction) -> list[str]:
    sections = {"Instruction": record.instruction, "Input": record.input}
    return [f"### {name}:\n{text}" for name, text in sections.items() if text.strip()]


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)
