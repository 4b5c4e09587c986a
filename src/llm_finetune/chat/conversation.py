"""The messages of a chat: as the next prompt, and as records that can be trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from llm_finetune.data.inference_prompts import InferencePrompt
from llm_finetune.data.records import Conversation, Instruction, InvalidRecordError, Message, Record, Text
from llm_finetune.errors import DataError, OutputError


@dataclass
class ChatHistory:
    """Questions and answers so far.

    A model of text has no conversations: each line is a text of its own to go on with. With an instruction,
    each line is an input of its own, as in records that have both.

    Args:
        asking: the form that the model knows.
        system: the conversation's system turn; empty: none.
        instruction: what is asked about each line; empty: the line itself is what is asked.
    """

    asking: InferencePrompt
    system: str = ""
    instruction: str = ""
    exchanges: list[tuple[str, str]] = field(default_factory=list)

    def prompt(self, question: str, room: int) -> tuple[list[int], int]:
        """The tokens to ask with, and how many old exchanges were left out since they no longer fit.

        Args:
            room: tokens that the prompt may have.

        Raises:
            DataError: the question alone is longer.
        """
        together = len(self.exchanges) if self._is_one else 0
        for left_out in range(together + 1):
            earlier = self.exchanges[left_out:together]
            try:
                ids = self.asking.ids(self._record([*earlier, (question, "")]))
            except InvalidRecordError as error:
                raise DataError(str(error)) from error
            if len(ids) <= room:
                return ids, left_out
        raise DataError(f"the question has {len(ids):,} tokens with its prompt; {room:,} fit")

    def save(self, file: Path) -> int:
        """Adds the conversation to a file of JSON lines, in the form that training reads; returns the lines.

        Raises:
            OutputError: the file cannot be written.
        """
        parts = [self.exchanges] if self._is_one and self.exchanges else [[one] for one in self.exchanges]
        lines = [json.dumps(_row(self._record(part)), ensure_ascii=False) + "\n" for part in parts]
        try:
            with file.open("ab+") as opened:
                opened.write((_line_end_missing(opened) + "".join(lines)).encode())
        except OSError as error:
            raise OutputError(f"{file}: cannot be written ({error.strerror})") from error
        return len(lines)

    @property
    def _is_one(self) -> bool:
        """Each question is asked with those before it."""
        return self.asking.format != "text" and not self.instruction

    def _record(self, exchanges: Sequence[tuple[str, str]]) -> Record:
        """The record of these exchanges; where the last answer is empty, the one to ask for it."""
        question, answer = exchanges[-1]
        if self.asking.format == "text":
            return Text(question + answer)
        if self.instruction:
            return Instruction(self.instruction, question, answer)
        messages = [
            Message(role, text)
            for one in exchanges
            for role, text in zip(("user", "assistant"), one, strict=True)
        ]
        system = [Message("system", self.system)] if self.system else []
        return Conversation((*system, *(messages if answer else messages[:-1])))


def _line_end_missing(file: BinaryIO) -> str:
    """A line end, where the file has content that does not end with one."""
    if not file.seek(0, os.SEEK_END):
        return ""
    file.seek(-1, os.SEEK_END)
    return "" if file.read(1) == b"\n" else "\n"


def _row(record: Record) -> dict[str, Any]:
    """The record under the column names that training reads."""
    if isinstance(record, Conversation):
        return {"messages": [turn._asdict() for turn in record.messages]}
    return record._asdict()
