"""The texts in a row's columns, and how an error shows what is there instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_finetune.data.records.base import InvalidRecordError


def required_text(row: Mapping[str, Any], column: str, meaning: str) -> str:
    """The text of a column that must not be empty.

    Args:
        meaning: what is expected there, for the error.

    Raises:
        InvalidRecordError: the column is absent or empty, or holds no text.
    """
    if column not in row:
        raise InvalidRecordError(absent(row, column))
    text = optional_text(row, column)
    if not text.strip():
        raise InvalidRecordError(f"column {column!r} is empty; expected {meaning}")
    return text


def optional_text(row: Mapping[str, Any], column: str) -> str:
    """The text of a column; empty where it is absent or null.

    Raises:
        InvalidRecordError: it holds something else than text, or characters that are not Unicode.
    """
    text = row.get(column)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InvalidRecordError(f"column {column!r} is {shown(text)}; expected text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRecordError(
                f"column {column!r} {_not_text(text[error.start], error.start)}"
            ) from None
    return text


def absent(row: Mapping[str, Any], column: str) -> str:
    """That a column is absent, and which there are."""
    return f"there is no column {column!r}; the row has {', '.join(map(repr, row)) or 'none'}"


def shown(value: Any) -> str:
    """A value and its type, shortened."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def _not_text(character: str, position: int) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        byte = f"0x{code - 0xDC00:02x}"
        return f"holds the byte {byte} at character {position}, which is not UTF-8; save the file as UTF-8"
    return f"holds half a character (\\u{code:04x}) at character {position}; expected whole ones"
