"""How much one line, one record or one file may hold: a small file never takes gigabytes of memory."""

from __future__ import annotations

import gzip
import os
from typing import IO

LINE_CHARACTERS = 32 * 1024 * 1024  # of a line, or of one value of a JSON array
RECORD_CHARACTERS = 8 * 1024 * 1024  # of the text that is trained on: tokenizing takes a hundredfold
CONVERSATION_CHARACTERS = 256 * 1024 * 1024  # of a conversation, times its answers
COLUMNS = 10_000
_ALWAYS_ALLOWED = 256 * 1024 * 1024
_TIMES_ITS_SIZE = 200  # text is packed to a tenth or a twentieth of its size


class TooLargeError(Exception):
    """More than that: how much was found, and how much is allowed."""


class Unpacked:
    """What has been unpacked of one file.

    Args:
        file: the descriptor of the packed file.
    """

    def __init__(self, file: int) -> None:
        self._packed = os.fstat(file).st_size
        self._most = max(_ALWAYS_ALLOWED, _TIMES_ITS_SIZE * self._packed)

    def check(self, size: int) -> None:
        """Raises:
        TooLargeError: so many bytes are more than such a file may hold.
        """
        if size > self._most:
            raise TooLargeError(
                f"its {self._packed:,} bytes unpack to more than {self._most:,}; if that is right, unpack it "
                "yourself"
            )


class Gunzipped(gzip.GzipFile):
    """A gzip stream that ends where it holds more than such a file may."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._unpacked = Unpacked(self.fileno())

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _checked(self, content: bytes) -> bytes:
        self._unpacked.check(self.tell())
        return content


def line_of(text: IO[str]) -> str:
    """The next line with its end; empty at the end of the text.

    Raises:
        TooLargeError: it is too long.
    """
    line = text.readline(LINE_CHARACTERS + 1)
    if len(line) > LINE_CHARACTERS:
        raise TooLargeError(f"the line has more than {LINE_CHARACTERS:,} characters")
    return line
