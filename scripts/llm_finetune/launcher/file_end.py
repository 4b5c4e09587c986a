"""Whether a file has the end that its format wants: a copy that was cut short has none."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

TAIL_BYTES = 4096
BLOCK_BYTES = 16 * 1024 * 1024


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
    """The header says where the last tensor ends. https://github.com/huggingface/safetensors#format"""
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if header_bytes > file.stat().st_size:
            return "its header does not end"
        header = json.loads(stream.read(header_bytes))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + header_bytes + max(ends, default=0)
    size = file.stat().st_size
    return None if size == expected else f"it has {size:,} bytes, and its header says {expected:,}"


def _index(file: Path) -> str | None:
    """The index of a model names the files of its weights."""
    flaw = _json(file)
    if flaw is None:
        names = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in names if not (file.parent / name).is_file())
        flaw = f"{missing[0]}, which it names, is not there" if missing else None
    return flaw


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return stream.read()


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
