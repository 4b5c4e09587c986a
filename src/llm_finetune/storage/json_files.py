"""JSON files, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing


def write_json(file: Path, content: Any) -> None:
    """Writes the file whole or not at all. Raises OSError where it cannot."""
    atomic.write_text(file, as_text(content))


def save_text(file: Path, text: str) -> None:
    """Writes a file that a user waits for. Raises OutputError where it cannot: why, and what to do."""
    with writing(file, len(text)):
        atomic.write_text(file, text)


def as_text(content: Any) -> str:
    """JSON as the project writes it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(file: Path) -> dict[str, Any] | None:
    """The file's content, or None where there is no such file."""
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
