"""Where questions come from, and where all goes that is no answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator


def typed_lines() -> Iterator[str]:
    """What a person types, until Ctrl-D."""
    import readline  # noqa: F401 (gives `input` its editing keys and history)

    # Standard output may be a file, for the answers alone; `input` would write its prompt there too.
    prompt = "> " if sys.stdout.isatty() else ""
    while True:
        try:
            yield input(prompt)
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("", "(Ctrl-D ends the chat)")


def piped_lines() -> Iterator[str]:
    """The lines of standard input; bytes that are not UTF-8 become U+FFFD."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def say(*lines: str) -> None:
    """To the person, on standard error: standard output holds answers and nothing else."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)
