"""Result files: JSON under names that are a public interface."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing

LIBRARIES = ("llm-finetune", "torch", "transformers", "peft", "datasets", "accelerate", "tokenizers")


def write_json(file: Path, content: Any) -> None:
    """Writes the file whole or not at all. Raises OSError where it cannot."""
    atomic.write_text(file, as_text(content))


def write_result(file: Path, content: Any) -> None:
    """Leaves a stage's result. Raises OutputError where it cannot be written."""
    write_page(file, as_text(content))


def write_page(file: Path, text: str) -> None:
    """The same for a text."""
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


def versions() -> dict[str, str]:
    """What a run was made with: Python and the libraries that decide its result."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far, mapped files included."""
    # Not getrusage's ru_maxrss: a child inherits its parent's there.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
