"""A TCP connection over which two processes say a line now and then, and know when the other is gone.

The kernel closes a dead process's connections at once, and answers for a busy one: so a death is noticed
within a second, and nobody is taken for dead because he computes. A cut link is found within half a minute,
by TCP's own probes where the line is silent, and by what stays unacknowledged where it is not.
"""

from __future__ import annotations

import socket
from contextlib import suppress

CUT_SECONDS = 30
PROBES = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
LONGEST_BYTES = 1024 * 1024


class Line:
    """One end of it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CUT_SECONDS * 1000)
        self._connection = connection
        self._heard = b""

    @property
    def here(self) -> str:
        """This end's address."""
        return _plain(self._connection.getsockname()[0])

    @property
    def there(self) -> str:
        """The other end's address."""
        return _plain(self._connection.getpeername()[0])

    def say(self, words: str) -> None:
        """Sends a line. A peer that is gone is not an error here: whoever listens to it hears of it."""
        with suppress(OSError):
            self._connection.sendall(words.encode() + b"\n")

    def hear(self, timeout_seconds: float | None = None) -> str:
        """Blocks until the peer has said a line; empty if it hung up, is gone, or said too much.

        Raises:
            TimeoutError: it kept silent for so long.
        """
        self._connection.settimeout(timeout_seconds)
        try:
            while b"\n" not in self._heard:
                part = self._connection.recv(65536)
                self._heard += part
                if not part or len(self._heard) > LONGEST_BYTES:
                    return ""
        except OSError as error:
            # A cut link is a TimeoutError too, but the kernel's, with a number.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            return ""
        finally:
            self._connection.settimeout(None)
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode(errors="replace")

    def hang_up(self) -> None:
        """Ends it for both; close alone would leave it open while a thread listens."""
        with suppress(OSError):  # the peer may have hung up first
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives this process's end up, without a word to the peer: for a forked child."""
        self._connection.close()


def _plain(address: str) -> str:
    """An IPv4 address that reached an IPv6 socket, as the IPv4 address it is."""
    return address.removeprefix("::ffff:")
