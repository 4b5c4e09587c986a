"""How a tuned model is asked: word for word and token for token as in its training."""

from __future__ import annotations

from typing import Any

from llm_finetune.data.prompt_config import ModelPromptFormat, PromptConfig
from llm_finetune.data.prompt_segments import PromptPreambles
from llm_finetune.data.prompt_templates import prompt_of, why_no_template
from llm_finetune.data.records import Conversation, Message, Record
from llm_finetune.data.tokenization import Encoder
from llm_finetune.errors import ModelError


class InferencePrompt:
    """Writes and tokenizes questions in the form that the model knows.

    Args:
        tokenizer: the model's.
        prompt_config: how the model was prompted in training. None where that is not known: then the
            tokenizer's chat template, or plain text where it has none.

    Attributes:
        format: of the prompt.

    Raises:
        ModelError: the tokenizer has no chat template, which that format needs.
    """

    def __init__(self, tokenizer: Any, prompt_config: PromptConfig | None) -> None:
        if prompt_config is None:
            guessed: ModelPromptFormat = "text" if why_no_template(tokenizer) else "chat"
            prompt_config = PromptConfig(format=guessed, with_input="", without_input="")
        if prompt_config.format == "chat" and (has_none := why_no_template(tokenizer)):
            raise ModelError(f"{PromptConfig.file_name}: the format is chat, but the tokenizer {has_none}")
        self.format = prompt_config.format
        self._preambles = PromptPreambles(prompt_config.with_input, prompt_config.without_input)
        self._encoder = Encoder(tokenizer)
        self._prompt = prompt_of(self.format, self._preambles, self._encoder.eos, tokenizer)

    @property
    def stop(self) -> tuple[str, ...]:
        """What only the asking side writes: an answer that goes on with it has ended."""
        return ("\n\n### Instruction:",) if self.format == "alpaca" else ()

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
        if self.format == "chat" and isinstance(record, Conversation):
            record = self._opened(record)
        return self._encoder.prompt_ids(self._prompt.ask(record), self._prompt.writes_special_tokens)

    def _opened(self, conversation: Conversation) -> Conversation:
        """Begins as the training's instructions did: with their opening as a system turn."""
        opening, turns = self._preambles.without_input, conversation.messages
        if opening and turns[0].role != "system":
            return Conversation((Message("system", opening), *turns))
        return conversation
