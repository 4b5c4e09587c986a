"""A TCP connection over which two processes exchange lines, and which detects the loss of the peer.

The kernel closes a dead process's connections at once, and answers for a busy one: so a death is noticed
within a second, and a busy process is not taken for dead. A cut link is found within half a minute,
by TCP's own probes where the line is silent, and by what stays unacknowledged where it is not.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import threading
import time
from contextlib import suppress

CUT_SECONDS = 30
PROBES = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
LONGEST_BYTES = 1024 * 1024
PART_BYTES = 65536
SEAL_LENGTH = 2 * hashlib.sha256().digest_size


class Line:
    """One end of it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CUT_SECONDS * 1000)
        # A peer that stands still reads nothing, and its kernel acknowledges what it has no room for.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", CUT_SECONDS, 0))
        self._connection = connection
        self._heard = bytearray()
        self._speaking = threading.Lock()
        self._seals: tuple[_Seal, _Seal] | None = None

    @property
    def here(self) -> str:
        """This end's address."""
        return _plain(self._connection.getsockname()[0])

    @property
    def there(self) -> str:
        """The peer's address; empty where the connection is already closed."""
        with suppress(OSError):
            return _plain(self._connection.getpeername()[0])
        return ""

    def seal(self, key: bytes, *, answers: bool) -> None:
        """From here on each line is authenticated with the key and its sequence number.

        Args:
            answers: this end was called; the other one calls.
        """
        called, calling = _Seal(key, b"called"), _Seal(key, b"calling")
        self._seals = (called, calling) if answers else (calling, called)

    def send(self, words: str) -> None:
        """Sends a line. A lost peer is no error here: the thread that reads from it reports the loss."""
        with self._speaking:
            content = words.encode()
            if self._seals:
                content = self._seals[0].next(content) + content
            try:
                self._connection.sendall(content + b"\n")
            except OSError:  # half a line may be on its way
                self.shutdown()

    def receive(self, timeout_seconds: float | None = None, longest_bytes: int = LONGEST_BYTES) -> str:
        """Blocks until a line arrives; empty if the peer hung up, is lost, or sent an invalid line.

        Args:
            timeout_seconds: for the whole line, however it trickles in.
            longest_bytes: of a line; more is never buffered.

        Raises:
            TimeoutError: it did not say one for so long.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        seen = 0
        try:
            while (length := self._heard.find(b"\n", seen)) < 0:
                if (seen := len(self._heard)) > longest_bytes:
                    return ""
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._connection.settimeout(left)
                part = self._connection.recv(PART_BYTES)
                if not part:
                    return ""
                self._heard += part
        except OSError as error:
            # A cut link is a TimeoutError too, but the kernel's, with a number.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            return ""
        finally:
            with suppress(OSError):  # closed meanwhile
                self._connection.settimeout(None)
        line = bytes(self._heard[:length])
        del self._heard[: length + 1]
        return self._unsealed(line) if length <= longest_bytes else ""

    def _unsealed(self, line: bytes) -> str:
        if self._seals:
            seal, line = line[:SEAL_LENGTH], line[SEAL_LENGTH:]
            if not hmac.compare_digest(seal, self._seals[1].next(line)):
                return ""
        return line.decode(errors="replace")

    def shutdown(self) -> None:
        """Ends it for both; close alone would leave it open while a thread listens."""
        with suppress(OSError):  # the peer may have hung up first
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes this process's end without notifying the peer: for a forked child."""
        self._connection.close()


class _Seal:
    """One direction's proofs: a forged, omitted, repeated or reflected line does not match."""

    def __init__(self, key: bytes, direction: bytes) -> None:
        self._key = key + direction
        self._count = 0

    def next(self, line: bytes) -> bytes:
        self._count += 1
        return hmac.new(self._key, b"%d %s" % (self._count, line), hashlib.sha256).hexdigest().encode()


def _plain(address: str) -> str:
    """An IPv4 address that reached an IPv6 socket, as the IPv4 address it is."""
    return address.removeprefix("::ffff:")
