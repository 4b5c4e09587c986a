"""How a tuned model is asked: word for word and token for token as in its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from llm_finetune.data.prompt_segments import Openings
from llm_finetune.data.prompt_templates import prompt_of, why_no_template
from llm_finetune.data.records import Messages, Record, Turn
from llm_finetune.data.tokenization import Encoder
from llm_finetune.errors import ModelError

AskedFormat = Literal["sections", "chat", "text"]


class Asking:
    """Writes and tokenizes questions in the form that the model knows.

    Args:
        tokenizer: the model's.
        asked_as: the content of prompt.json: `format`, `with_input`, `without_input`. None where there is no
            such file: then the tokenizer's chat template, or plain text where it has none.

    Attributes:
        format: of the prompt.

    Raises:
        ModelError: that content is none, or the tokenizer does not go with it.
    """

    def __init__(self, tokenizer: Any, asked_as: Mapping[str, Any] | None) -> None:
        if asked_as is None:
            guessed = "text" if why_no_template(tokenizer) else "chat"
            asked_as = {"format": guessed, "with_input": "", "without_input": ""}
        _check(asked_as, tokenizer)
        self.format: AskedFormat = asked_as["format"]
        self._openings = Openings(asked_as["with_input"], asked_as["without_input"])
        self._encoder = Encoder(tokenizer)
        self._prompt = prompt_of(self.format, self._openings, self._encoder.eos, tokenizer)

    @property
    def stop(self) -> tuple[str, ...]:
        """What only the asking side writes: an answer that goes on with it has ended."""
        return ("\n\n### Instruction:",) if self.format == "sections" else ()

    def ids(self, record: Record) -> list[int]:
        """The tokens up to the answer.

        Args:
            record: an instruction without output, a conversation that ends with the user, or a text to go on
                with; text where the format is text, and only there.

        Raises:
            InvalidRecordError: the chat template refuses the conversation, or the tokenizer cannot read its
                text.
        """
        record = self._encoder.control_words.escaped(record) or record
        if self.format == "chat" and isinstance(record, Messages):
            record = self._opened(record)
        return self._encoder.prompt_ids(self._prompt.ask(record), self._prompt.writes_special_tokens)

    def _opened(self, conversation: Messages) -> Messages:
        """Begins as the training's instructions did: with their opening as a system turn."""
        opening, turns = self._openings.without_input, conversation.turns
        if opening and turns[0].role != "system":
            return Messages((Turn("system", opening), *turns))
        return conversation


def _check(asked_as: Mapping[str, Any], tokenizer: Any) -> None:
    openings = [asked_as.get(name) for name in ("with_input", "without_input")]
    known = asked_as.get("format") in get_args(AskedFormat)
    if not known or not all(isinstance(opening, str) for opening in openings):
        raise ModelError(
            f"prompt.json: found {dict(asked_as)!r}; expected format (sections, chat or text), with_input "
            "and without_input (texts)"
        )
    if asked_as["format"] == "chat" and (has_none := why_no_template(tokenizer)):
        raise ModelError(f"prompt.json: the format is chat, but the tokenizer {has_none}")
