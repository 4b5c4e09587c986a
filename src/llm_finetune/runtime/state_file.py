"""Small files of JSON that processes leave on the volume for later ones: any bytes may stand there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeGuard

from llm_finetune.runtime.json_object import parsed

LONGEST_BYTES = 1024 * 1024
HIGHEST = 2**53  # of a count; beyond it no other reader of JSON tells two of them apart


def read_state(file: Path) -> dict[str, Any]:
    """What stands there; empty where that is no object, or longer than any that this project writes.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    # A pipe of that name would be waited for, for ever.
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        content = stream.read(LONGEST_BYTES + 1) or b""
    return parsed(content.decode(errors="replace")) if len(content) <= LONGEST_BYTES else {}


def is_count(value: Any) -> TypeGuard[int]:
    """Whether this is a number of things."""
    return type(value) is int and 0 <= value <= HIGHEST
