"""A chat template at work, in a process of its own with bounds.

A template is a program that came with the model. It cannot reach out of jinja's sandbox, but it can run for
ever, or fill the memory with one multiplication that nothing interrupts. The kernel ends it then.
"""

from __future__ import annotations

import gc
import marshal
import os
import resource
import signal
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llm_finetune.data.records import InvalidRecordError, Message

Request = tuple[Sequence[Message], bool]
Apply = Callable[[list[dict[str, str]], bool], str]

SECONDS = 5
MEMORY_BYTES = 1 << 30
CHARACTERS = 32 * 1024 * 1024
_CHUNK_CHARACTERS = 4 * 1024 * 1024
_WRITTEN, _REFUSED, _STOPPED = b"w", b"r", b"s"
_TOO_SLOW = f"takes more than {SECONDS} seconds for one conversation"
_TOO_MUCH = f"takes more than {MEMORY_BYTES >> 30} GB of memory for one conversation"
_TOO_LONG = f"makes more than {CHARACTERS:,} characters of one conversation"


class StoppedError(InvalidRecordError):
    """The template had to be stopped; it would have to be for most other rows, too."""


class ChatTemplate:
    """Renders conversations by a tokenizer's chat template.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        def apply(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
            return str(
                tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )

        self._apply = apply
        self._process: _Process | None = None

    def render(self, requests: Sequence[Request]) -> list[str | InvalidRecordError]:
        """What the template writes for each, or why it refuses.

        Args:
            requests: turns, and whether to add what comes before the next answer.

        Raises:
            StoppedError: one of them took too much.
        """
        rendered: list[str | InvalidRecordError] = []
        for chunk in _chunks(requests):
            if self._process is None:
                self._process = _Process(self._apply)
            try:
                rendered += self._process.render(chunk)
            except StoppedError:
                self._process = None
                raise
        return rendered


class _Process:
    """A fork of this process: it has the libraries that render, and takes milliseconds to make."""

    def __init__(self, apply: Apply) -> None:
        self._pipe, theirs = Pipe()
        self._id = os.fork()
        if self._id == 0:
            try:
                _serve(theirs, apply)
            finally:
                os._exit(1)
        theirs.close()
        self._end = weakref.finalize(self, _end, os.getpid(), self._id, self._pipe)

    def render(self, requests: Sequence[Request]) -> list[str | InvalidRecordError]:
        rendered: list[str | InvalidRecordError] = []
        content = [
            ([{"role": role, "content": text} for role, text in turns], ask) for turns, ask in requests
        ]
        try:
            self._pipe.send_bytes(marshal.dumps(content))
            while len(rendered) < len(requests):
                rendered += map(_answer, marshal.loads(self._pipe.recv_bytes()))
        except (EOFError, OSError):
            raise StoppedError(_told(self._how_it_ended())) from None
        except StoppedError:
            self._end()
            raise
        return rendered

    def _how_it_ended(self) -> str:
        self._end.detach()
        self._pipe.close()
        _, status = os.waitpid(self._id, 0)
        number = -os.waitstatus_to_exitcode(status)
        if number == signal.SIGXCPU:
            return _TOO_SLOW
        how = f"by {signal.Signals(number).name}" if number > 0 else "early"
        return f"ended the process that works it {how}"


def _end(owner: int, process: int, pipe: Connection) -> None:
    if os.getpid() == owner:  # and not another fork of it
        pipe.close()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _chunks(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    start = size = 0
    for end, (turns, _) in enumerate(requests):
        if size > _CHUNK_CHARACTERS:
            yield requests[start:end]
            start, size = end, 0
        size += sum(len(turn.content) for turn in turns)
    if start < len(requests):
        yield requests[start:]


def _answer(message: bytes) -> str | InvalidRecordError:
    kind, text = message[:1], message[1:].decode()
    if kind == _WRITTEN:
        return text
    if kind == _REFUSED:
        return InvalidRecordError(_told(text))
    raise StoppedError(_told(text))


def _told(problem: str) -> str:
    return f"the tokenizer's chat template {problem}"


def _serve(pipe: Connection, apply: Apply) -> None:
    """The other process: until the pipe ends, which it does with the parent."""
    _let_go(pipe.fileno())
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _limit(resource.RLIMIT_AS, in_use + MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    second = -1
    while True:
        # Many answers go in one message: one each would cost as much as the rendering.
        answers, size = list[bytes](), 0
        for messages, add_generation_prompt in marshal.loads(pipe.recv_bytes()):
            if second != (now := int(time.process_time())):
                second = now
                _limit(resource.RLIMIT_CPU, second + 1 + SECONDS)
            answers.append(_rendered(apply, messages, add_generation_prompt))
            size += len(answers[-1])
            if size > _CHUNK_CHARACTERS:
                pipe.send_bytes(marshal.dumps(answers))
                answers, size = [], 0
        if answers:
            pipe.send_bytes(marshal.dumps(answers))


def _rendered(apply: Apply, messages: list[dict[str, str]], add_generation_prompt: bool) -> bytes:
    try:
        text = apply(messages, add_generation_prompt)
        return _STOPPED + _TOO_LONG.encode() if len(text) > CHARACTERS else _WRITTEN + text.encode()
    except MemoryError:
        return _STOPPED + _TOO_MUCH.encode()
    except Exception as error:  # a template can raise whatever it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return _REFUSED + f"refuses the conversation: {reason}".encode(errors="replace")


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _let_go(own: int) -> None:
    """Of all that is the parent's: its files, its terminal, and the signals that it sees to."""
    gc.freeze()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) or number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, own)
    os.closerange(own + 1, os.sysconf("SC_OPEN_MAX"))
