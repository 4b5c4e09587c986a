"""Conversations in a tokenizer's chat template."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from llm_finetune.data.prompt_segments import (
    PromptPreambles,
    PromptSegment,
    Written,
    joined,
    with_empty_answer,
)
from llm_finetune.data.records import Instruction, InvalidRecordError, Message, Record, Text
from llm_finetune.data.template_sandbox import ChatTemplate, Request, StoppedError
from llm_finetune.errors import ModelError

ENDS_OF_THOUGHTS = ("</think>", "</thinking>", "</thought>", "[/THINK]")


class ChatPrompt:
    """The tokenizer's own chat template.

    An answer is trained on behind exactly what the template writes when that answer is asked for. Where the
    answers of a conversation stand behind one another so, it is one prompt; but some templates write a turn
    otherwise once others follow it (they drop a thought, or move the system's text), or write another thing
    before an answer that is asked for than before one that is there. Then each answer has its own prompt.
    """

    writes_special_tokens = True

    def __init__(self, preambles: PromptPreambles, eos: str, tokenizer: Any, mask_history: bool) -> None:
        self._preambles = preambles
        self._eos = eos
        self._mask_history = mask_history
        self._template = ChatTemplate(tokenizer)
        self._takes_system = self._renders_system()

    def render(self, records: Sequence[Record]) -> list[Written | InvalidRecordError]:
        conversations = [self._turns(record) for record in records]
        requests = [request for turns in conversations for request in self._requests(turns)]
        texts = iter(self._template.render(requests))
        return [self._written(turns, texts) for turns in conversations]

    def ask(self, record: Record) -> str:
        return self._one(self._turns(with_empty_answer(record))[:-1], True)

    def _requests(self, turns: Sequence[Message]) -> Iterator[Request]:
        """For each answer what is written when it is asked for, and when it is there."""
        for place in self._answers(turns):
            yield turns[:place], True
            yield turns[: place + 1], False

    def _answers(self, turns: Sequence[Message]) -> list[int]:
        places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        return places[-1:] if self._mask_history else places

    def _written(
        self, turns: Sequence[Message], texts: Iterator[str | InvalidRecordError]
    ) -> Written | InvalidRecordError:
        answers: list[_Answer] = []
        problem: InvalidRecordError | None = None
        for place in self._answers(turns):
            prompt, answered = next(texts), next(texts)
            try:
                answers.append(self._answer(turns[: place + 1], _right(prompt), _right(answered)))
            except StoppedError:
                raise
            except InvalidRecordError as error:
                problem = problem or error
        if problem:
            return problem
        prompts = [self._one_prompt(answers)] if _follow_one_another(answers) else map(self._alone, answers)
        return Written(list(prompts), sum(answer.lost_thoughts for answer in answers))

    def _answer(self, turns: Sequence[Message], prompt: str, answered: str) -> _Answer:
        """What follows a prompt where its answer is there.

        Raises:
            InvalidRecordError: that is not the answer of the record.
        """
        wanted = turns[-1].content
        if answered.startswith(prompt):
            text, whole = answered[len(prompt) :], answered
        else:
            mark = f"~{secrets.randbelow(10**18):018d}~"
            before, found, _ = self._one([*turns[:-1], Message("assistant", mark)], False).partition(mark)
            if not found or not answered.startswith(before):
                raise InvalidRecordError(_left_out(wanted, answered[-40:]))
            text, whole = answered[len(before) :], ""
        return _Answer(prompt, text, whole, _check_answer(wanted, text.replace(self._eos, "")))

    def _one_prompt(self, answers: Sequence[_Answer]) -> list[PromptSegment]:
        pieces: list[PromptSegment] = []
        written = 0
        for number, answer in enumerate(answers, start=1):
            pieces.append(PromptSegment(answer.prompt[written:], False))
            pieces += self._ended(answer.text, last=number == len(answers))
            written = len(answer.whole)
        return pieces

    def _alone(self, answer: _Answer) -> list[PromptSegment]:
        return [PromptSegment(answer.prompt, False), *self._ended(answer.text, last=True)]

    def _ended(self, text: str, last: bool) -> list[PromptSegment]:
        """What follows the end-of-sequence token (often a line end) is never asked for, nor trained on."""
        end = text.rfind(self._eos) + len(self._eos)
        if self._eos in text:
            return [PromptSegment(text[:end], True), PromptSegment(text[end:], False)]
        return [PromptSegment(text + self._eos if last else text, True)]

    def _turns(self, record: Record) -> list[Message]:
        assert not isinstance(record, Text)
        if isinstance(record, Instruction):
            question = joined([record.instruction, record.input])
            conversation = [Message("user", question), Message("assistant", record.output)]
            opening = self._preambles.of(record)
            turns = [Message("system", opening), *conversation] if opening else conversation
        else:
            last = max(i for i, turn in enumerate(record.messages) if turn.role == "assistant")
            turns = list(record.messages[: last + 1])
        if turns[0].role == "system" and not self._takes_system:
            turns[:2] = [Message("user", joined([turns[0].content, turns[1].content]))]
        return turns

    def _one(self, turns: Sequence[Message], add_generation_prompt: bool) -> str:
        (text,) = self._template.render([(turns, add_generation_prompt)])
        return _right(text)

    def _renders_system(self) -> bool:
        probe = [Message("system", "be brief"), Message("user", "hello")]
        try:
            return "be brief" in self._one(probe, True)
        except StoppedError as error:
            raise ModelError(f"{error}: it cannot be used. Set promptFormat to alpaca.") from error
        except InvalidRecordError:
            return False


class _Answer(NamedTuple):
    """One answer of a conversation.

    Attributes:
        prompt: what the template writes when it is asked for.
        text: what the template writes behind that, from the answer on.
        whole: prompt and text, where the template itself writes the one behind the other; else empty.
        lost_thoughts: the text has no thoughts, where the record has.
    """

    prompt: str
    text: str
    whole: str
    lost_thoughts: bool


def _right(text: str | InvalidRecordError) -> str:
    if isinstance(text, InvalidRecordError):
        raise text
    return text


def _follow_one_another(answers: Sequence[_Answer]) -> bool:
    return all(
        one.whole and other.whole and other.prompt.startswith(one.whole) for one, other in pairwise(answers)
    )


def _check_answer(wanted: str, text: str) -> bool:
    """Whether the text has the record's answer, but for white space, without its thoughts.

    Raises:
        InvalidRecordError: it has not even that.
    """
    if wanted.strip() in text:
        return False
    squeezed = _squeezed(text)
    if _squeezed(wanted) in squeezed:
        return False
    for end in ENDS_OF_THOUGHTS:
        answer = _squeezed(wanted.rpartition(end)[2])
        if end in wanted and answer and answer in squeezed:
            return True
    raise InvalidRecordError(_left_out(wanted, text))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _left_out(wanted: str, text: str) -> str:
    return (
        f"the tokenizer's chat template leaves the answer out: the record has {_shown(wanted)}, the template "
        f"writes {_shown(text)}. Set promptFormat to alpaca, or fix the template"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
