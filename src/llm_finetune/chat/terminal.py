"""Terminal and pipe: reads questions, shows answers and status lines."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

from llm_finetune.runtime import standard_streams
from llm_finetune.runtime.logging import plain, tell


def typed_lines() -> Iterator[str]:
    """What a person types, until Ctrl-D."""
    import readline  # noqa: F401 (gives `input` its editing keys and history)

    # Standard output may be a file, for the answers alone; `input` would write its prompt there too.
    prompt = "> " if at_terminal() else ""
    while True:
        try:
            yield input(prompt)
        except EOFError:
            print_status("")
            return
        except KeyboardInterrupt:
            print_status("", "(Ctrl-D ends the chat)")


def piped_lines() -> Iterator[str]:
    """The lines of standard input; bytes that are not UTF-8 become U+FFFD."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def at_terminal() -> bool:
    """Whether a terminal shows the answers."""
    return sys.stdout.isatty()


def show(answer: str, end: str = "") -> None:
    """Part of an answer on standard output: control characters are made harmless on a terminal.

    Raises:
        SystemExit: the reader of standard output has closed it.
    """
    if not standard_streams.show(plain(answer) if at_terminal() else answer, end=end):
        raise SystemExit(128 + signal.SIGPIPE)


def print_status(*lines: str) -> None:
    """To the person, on standard error: standard output holds answers and nothing else."""
    tell(*lines)
