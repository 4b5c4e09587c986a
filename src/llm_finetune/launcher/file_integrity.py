"""Whether a file has the end that its format wants: a copy that was cut short has none."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAIL_BYTES = 4096
BLOCK_BYTES = 16 * 1024 * 1024
LONGEST_SHOWN = 200
LONGEST_INDEX_BYTES = 100_000_000


def missing_end(file: Path) -> str | None:
    """What is missing at the file's end, in words; None where nothing is, or where the format has no end."""
    name = file.name.lower()
    try:
        if file.stat().st_size == 0:
            return f"{file.name} is empty" if name.endswith(tuple(_CHECKS)) else None
        check = next((check for suffix, check in _CHECKS.items() if name.endswith(suffix)), None)
        flaw = check(file) if check else None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        flaw = str(error)
    return f"{file.name}: {flaw}" if flaw else None


def _gzip(file: Path) -> str | None:
    with gzip.open(file) as stream:  # raises at the end where there is none
        while stream.read(BLOCK_BYTES):
            pass
    return None


def _parquet(file: Path) -> str | None:
    return None if _tail(file).endswith(b"PAR1") else "it does not end as a Parquet file does"


def _json(file: Path) -> str | None:
    """A list ends with its bracket, an object and the last of several with its brace."""
    with file.open("rb") as stream:
        first = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    closing = b"]" if first.startswith(b"[") else b"}"
    return None if _tail(file).rstrip().endswith(closing) else f"it does not end with {closing.decode()}"


def _safetensors(file: Path) -> str | None:
    """safetensors itself holds the header against the file's size; it reads no tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return None
    except SafetensorError as error:
        reason = str(error)[:LONGEST_SHOWN]
        return f"it has {file.stat().st_size:,} bytes, which are no complete safetensors file ({reason})"


def _index(file: Path) -> str | None:
    """The index of a model names the files of its weights."""
    if flaw := _json(file):
        return flaw
    if file.stat().st_size > LONGEST_INDEX_BYTES:
        return f"it has more than {LONGEST_INDEX_BYTES:,} bytes, which no index has"
    content = _object(file.read_bytes())
    names = content.get("weight_map") if content else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        return "it has no weight_map from tensors to names of files"
    missing = sorted(name for name in set(names.values()) if not (file.parent / name).is_file())
    return f"{missing[0][:LONGEST_SHOWN]}, which it names, is not there" if missing else None


def _object(content: bytes) -> dict[str, Any] | None:
    """An object of JSON; None where it is anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):  # nonsense; brackets in brackets
        return None
    return found if isinstance(found, dict) else None


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return stream.read(TAIL_BYTES)


# The first that fits the name counts.
_CHECKS: dict[str, Callable[[Path], str | None]] = {
    ".safetensors.index.json": _index,
    ".safetensors": _safetensors,
    ".gz": _gzip,
    ".parquet": _parquet,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
}
