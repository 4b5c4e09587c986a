"""What a library raises over the content of a model's file, as an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.errors import ModelError, UserError

LONGEST = 300


@contextmanager
def blamed(file: Path | str, what: str) -> Iterator[None]:
    """Whatever the body raises becomes a ModelError; so it must do nothing but call the library.

    Args:
        file: whose content the library acts on.
        what: what cannot be done with it.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # A panic of a library in Rust is no Exception, since Python's own are not meant to be caught.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{file}: {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """In one line; a text of its own, or the kind of error where that says more."""
    text = " ".join(str(error).split())[:LONGEST]
    return text if " " in text else f"{type(error).__name__} {text}".strip()
