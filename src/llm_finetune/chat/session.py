"""`llm-finetune chat`: from a folder to answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.chat.conversation import ChatHistory
from llm_finetune.chat.terminal import piped_lines, print_status, show, typed_lines
from llm_finetune.data.inference_prompts import InferencePrompt
from llm_finetune.data.prompt_config import PromptConfig
from llm_finetune.distributed import available_cores
from llm_finetune.errors import SettingsError, UserError
from llm_finetune.generation.load import ModelFolder, load_folder
from llm_finetune.models.model_directory import kind_of
from llm_finetune.runtime.logging import configure

if TYPE_CHECKING:
    from llm_finetune.generation.decoding import Sampling

HELP = """\
/reset        clear the conversation
/save FILE    append the conversation to a JSON Lines file that training reads
/help         show this help
/quit         quit (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(frozen=True)
class ChatOptions:
    """How answers are made.

    Attributes:
        temperature, top_k, top_p, seed: as for `Sampling`.
        max_new_tokens: tokens of an answer at most.
        system: as for `ChatHistory`, and so `instruction`.
        trust_remote_code: run Python code that comes with the model.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_new_tokens: int
    system: str
    instruction: str
    trust_remote_code: bool


def chat(folder: Path, options: ChatOptions) -> None:
    """Loads the model and answers until the input ends.

    At a terminal an error is shown and the chat continues; in a pipe it ends the chat.

    Raises:
        UserError: what is wrong with the folder, the options or, in a pipe, a line.
    """
    _check(options)
    kind = kind_of(folder)
    # Read by the math libraries when they are loaded, so before torch is.
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    configure("warning", rank=0)
    loaded = load_folder(folder, trust_remote_code=options.trust_remote_code)
    asking = InferencePrompt(loaded.tokenizer, PromptConfig.read(folder))
    if asking.format == "text" and (options.system or options.instruction):
        raise SettingsError(
            "--system, --instruction: this model was trained on plain text and goes on with it"
        )
    session = Session(loaded, asking, options)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        print_status(f"{folder}: {kind} model, prompt format {asking.format}; type /help for commands")
    for line in typed_lines() if at_terminal else piped_lines():
        try:
            if not session.take(line, stoppable=at_terminal):
                return
        except UserError as error:
            if not at_terminal:
                raise
            print_status(*error.problems)


class Session:
    """One chat: commands and questions, with the conversation so far."""

    def __init__(self, loaded: ModelFolder, asking: InferencePrompt, options: ChatOptions) -> None:
        self._loaded = loaded
        self._options = options
        self._conversation = ChatHistory(asking, options.system, options.instruction)
        self._asked = 0

    def take(self, line: str, stoppable: bool) -> bool:
        """Does what the line says; False where it ends the chat.

        Args:
            stoppable: a person typed it: it may be a command, and Ctrl-C stops an answer without ending the
                chat. Each line of a pipe is a question, whatever it begins with.
        """
        if not stoppable:
            if line.strip():
                self._answer(line, stoppable)
            return True
        command, _, argument = line.strip().partition(" ")
        if command == "/quit":
            return False
        if command == "/help":
            print_status(HELP)
        elif command == "/reset":
            self._conversation.exchanges.clear()
            print_status("conversation cleared")
        elif command == "/save":
            self._save(argument.strip())
        elif command.startswith("/"):
            raise SettingsError(f"{command}: no such command; see /help")
        elif command:
            self._answer(line, stoppable)
        return True

    def _save(self, name: str) -> None:
        if not name:
            raise SettingsError("/save: no file given; write /save FILE")
        file = Path(name).expanduser()
        if not self._conversation.exchanges:
            print_status("the conversation is empty; nothing was saved")
            return
        lines = self._conversation.save(file)
        print_status(f"{lines} {'record' if lines == 1 else 'records'} added to {file}")

    def _answer(self, question: str, stoppable: bool) -> None:
        pieces: list[str] = []
        try:
            for piece in self._pieces(question):
                pieces.append(piece)
                show(piece)
        except KeyboardInterrupt:
            if not stoppable:
                raise
        show("", end="\n")
        answer = "".join(pieces)
        if answer.strip():
            self._conversation.exchanges.append((question, answer))
        else:
            print_status("(no answer)")

    def _pieces(self, question: str) -> Iterator[str]:
        from llm_finetune.generation.decoding import decode, prompt_room
        from llm_finetune.generation.detokenization import Answer

        loaded, longest = self._loaded, self._options.max_new_tokens
        prompt, left_out = self._conversation.prompt(question, prompt_room(loaded.model, longest))
        if left_out:
            print_status(
                f"(the oldest {left_out} of your questions no longer fit in the context and are dropped)"
            )
        asking = self._conversation.asking
        after = prompt if asking.format == "text" else ()
        answer = Answer(loaded.tokenizer, loaded.end_ids, asking.stop, after)
        steps = decode(
            loaded.model, [prompt], max_new_tokens=longest, end_ids=loaded.end_ids, sampling=self._sampling()
        )
        yield from answer.pieces(token for (token,) in steps)
        if not answer.ended:
            print_status("(truncated: --max-new-tokens or the model's context is reached)")

    def _sampling(self) -> Sampling:
        """With a seed of its own for each question: the same question twice may be answered in two ways."""
        from llm_finetune.generation.decoding import Sampling

        options = self._options
        self._asked += 1
        return Sampling(options.temperature, options.top_k, options.top_p, options.seed + self._asked)


def _check(options: ChatOptions) -> None:
    if options.system and options.instruction:
        raise SettingsError(
            "--system, --instruction: records with an instruction have no system turn; give one"
        )
