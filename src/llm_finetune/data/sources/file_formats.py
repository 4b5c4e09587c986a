"""The raw rows of one file, one at a time, whatever the file's format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from llm_finetune.data.limits import COLUMNS, LINE_CHARACTERS, Gunzipped, TooLargeError, line_of
from llm_finetune.data.sources import parquet
from llm_finetune.errors import DataError

Rows = Iterator[tuple[int, Any]]

TEXT_COLUMN = "text"
PARAGRAPH_CHARACTERS = 64 * 1024
_BLOCK_CHARACTERS = 1024 * 1024


class MalformedRowError(Exception):
    """A row that cannot be read, so that the rows behind it cannot be found either."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


def kind_of(path: Path) -> str | None:
    """The suffix that names the file's format, without `.gz`; None where it is none that can be read."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in _READERS if name.endswith(suffix)), None)


def read_rows(path: Path) -> Rows:
    """Yield `(row number, row)`; numbers are lines for json lines, csv and text, else positions from 1 on.

    A byte that is not UTF-8 arrives as a lone surrogate (Python's surrogateescape), so that code that reads
    the columns can name the one that holds it.

    Raises:
        DataError: the file cannot be read to its end, or holds no row; it names the file and the row.
    """
    kind = kind_of(path)
    assert kind is not None, f"sources hands out readable kinds only, not {path}"
    row = 0
    try:
        with _open(path) as stream:
            for row, raw in _READERS[kind](stream):
                yield row, raw
    except MalformedRowError as error:
        raise DataError(f"{path}, row {error.row}: {error}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}, after row {row}: the gzip stream is cut short or broken ({error}). Copy the file again."
        ) from error
    except TooLargeError as error:
        raise DataError(f"{path}, after row {row}: {error}.") from error
    except OSError as error:
        raise DataError(f"{path}, after row {row}: cannot be read ({error}).") from error
    if row == 0:
        raise DataError(f"{path}: the file holds no row.")


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], Gunzipped(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _text(stream: IO[bytes], newline: str | None = None) -> io.TextIOWrapper:
    if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
        raise MalformedRowError(1, "the file is UTF-16; expected UTF-8. Save it as UTF-8.")
    stream.seek(0)
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _json(stream: IO[bytes]) -> Rows:
    text = _text(stream)
    head = text.read(_BLOCK_CHARACTERS).lstrip()
    text.seek(0)
    return _json_array(text) if head.startswith("[") else _json_lines(text)


def _json_lines(text: IO[str]) -> Rows:
    for number, line in enumerate(iter(lambda: line_of(text), ""), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise MalformedRowError(number, f"not JSON ({error}). Expected one object a line.") from error


def _json_array(text: IO[str]) -> Rows:
    # The standard decoder reads one value at a time from a window over the file: the whole array is never in
    # memory, and the broken value is known by its number.
    decode = json.JSONDecoder().raw_decode
    window = _Window(text)
    window.skip("[")
    row = 0
    while (mark := window.next_mark()) != "]":
        row += 1
        if row > 1:
            if mark != ",":
                raise MalformedRowError(row, f"expected ',' or ']' before this object, found {_shown(mark)}.")
            window.skip(",")
        try:
            value = window.take(decode)
        except (ValueError, RecursionError) as error:
            raise MalformedRowError(row, f"not JSON, or cut short ({error}).") from error
        yield row, value
    window.skip("]")
    if rest := window.next_mark():
        raise MalformedRowError(
            row, f"expected the end of the file after the array's ']', found {_shown(rest)}."
        )


class _Window:
    """The part of a JSON file that is in memory."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._held = ""
        self._at = 0

    def _grow(self) -> bool:
        if len(self._held) - self._at > LINE_CHARACTERS:
            raise TooLargeError(f"the next value has more than {LINE_CHARACTERS:,} characters")
        more = self._text.read(max(_BLOCK_CHARACTERS, len(self._held) - self._at))
        self._held, self._at = self._held[self._at :] + more, 0
        return bool(more)

    def next_mark(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._grow():
                return ""

    def skip(self, mark: str) -> None:
        if self.next_mark() == mark:
            self._at += 1

    def take(self, decode: Callable[[str, int], tuple[Any, int]]) -> Any:
        """The next value. One that reaches the end of the window may go on behind it: the window grows."""
        self.next_mark()
        while True:
            try:
                value, end = decode(self._held, self._at)
                if end < len(self._held) or not self._grow():
                    self._at = min(end, len(self._held))
                    return value
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string") or error.pos > len(self._held) - 16
                if not (unfinished and self._grow()):
                    raise


def _csv(stream: IO[bytes]) -> Rows:
    csv.field_size_limit(LINE_CHARACTERS)
    lines = _CountedLines(_text(stream, newline=""))
    table = csv.reader(lines, strict=True)
    line = 1
    try:
        header = next(table, [])
        if len(header) > COLUMNS:
            raise MalformedRowError(1, f"{len(header):,} columns; expected {COLUMNS:,} at most.")
        if len(set(header)) < len(header):
            raise MalformedRowError(1, f"the header names a column twice: {', '.join(header)}.")
        line = table.line_num + 1
        lines.begin()
        for cells in table:
            if len(cells) not in (0, len(header)):
                raise MalformedRowError(line, f"{len(cells)} columns where the header has {len(header)}.")
            if cells:
                yield line, dict(zip(header, cells, strict=True))
            line = table.line_num + 1
            lines.begin()
    except csv.Error as error:
        raise MalformedRowError(line, f"not CSV ({error}).") from error


class _CountedLines:
    """The lines of a text, of which one row must not take too many characters."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self.begin()

    def begin(self) -> None:
        """A new row begins."""
        self._characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = line_of(self._text)
        if not line:
            raise StopIteration
        self._characters += len(line)
        if self._characters > LINE_CHARACTERS:
            raise TooLargeError(f"the next row has more than {LINE_CHARACTERS:,} characters")
        return line


def _parquet(stream: IO[bytes]) -> Rows:
    import pyarrow

    row = 0
    try:
        for row, raw in enumerate(parquet.rows(stream), start=1):
            yield row, raw
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise MalformedRowError(row + 1, f"not a whole Parquet file ({_first_line(error)}).") from error


def _paragraphs(stream: IO[bytes]) -> Rows:
    text = _text(stream)
    line, start, held, size = 1, 1, list[str](), 0
    # The bound on a line keeps memory small where a file has none.
    for part in iter(lambda: text.readline(_BLOCK_CHARACTERS), ""):
        if part.strip():
            start = start if held else line
            held.append(part)
            size += len(part)
        if held and (not part.strip() or size >= PARAGRAPH_CHARACTERS):
            yield start, {TEXT_COLUMN: "".join(held).rstrip("\n")}
            held, size = [], 0
        line += part.endswith("\n")
    if held:
        yield start, {TEXT_COLUMN: "".join(held).rstrip("\n")}


def _shown(mark: str) -> str:
    return repr(mark) if mark else "the end of the file"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


_READERS: dict[str, Callable[[IO[bytes]], Rows]] = {
    ".jsonl": lambda stream: _json_lines(_text(stream)),
    ".ndjson": lambda stream: _json_lines(_text(stream)),
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _paragraphs,
    ".text": _paragraphs,
    ".md": _paragraphs,
}
SUFFIXES = f"{', '.join(_READERS)}, and each of them with .gz"
