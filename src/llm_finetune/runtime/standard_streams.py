"""The three standard streams, in whatever state this process was started with."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from llm_finetune.errors import OutputError

INPUT, OUTPUT, ERROR = 0, 1, 2


def open_all() -> None:
    """Gives each stream that is closed /dev/null; what the encoding of one lacks is escaped from now on.

    To be called first: the next file that is opened would get the number of a closed stream, and the log
    would be written into it.
    """
    for number in (INPUT, OUTPUT, ERROR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    sys.stdin = sys.stdin or _on(INPUT, "r")
    sys.stdout = sys.stdout or _on(OUTPUT, "w")
    sys.stderr = sys.stderr or _on(ERROR, "w")
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=errors)


def show(text: str, end: str = "\n") -> bool:
    """Prints a result; False where its reader has left (`… | head -1`), who wants no more of it.

    Raises:
        OutputError: standard output cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _give_up(OUTPUT)
        return False
    except OSError as error:
        _give_up(OUTPUT)
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from error
    return True


def close() -> None:
    """Writes what is left to be written; the interpreter would complain of a reader that has left."""
    for number, stream in ((OUTPUT, sys.stdout), (ERROR, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _give_up(number)


def _on(number: int, mode: str) -> TextIO:
    """Python has none for a stream that was closed when it started."""
    return open(number, mode, encoding="utf-8", closefd=False)  # type: ignore[return-value]


def _give_up(number: int) -> None:
    """What is still to be written goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
