"""A port where processes of the job come in, and strangers do not: port scanners, health checks, attackers.

A connection has seconds to prove its identity, however slowly its bytes arrive. Many at once take no file or
thread from those of the job: where too many wait, the oldest of the address with most of them has to go.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_finetune.distributed import handshake
from llm_finetune.distributed.connection import Line
from llm_finetune.distributed.job_secret import job_secret
from llm_finetune.errors import SettingsError

MOST_WAITING = 64  # connections that have not proved yet who they are
PAUSE_SECONDS = 0.1
LOG_INTERVAL_SECONDS = 60.0

log = logging.getLogger(__name__)


class NotAdmittedError(Exception):
    """The peer is not admitted; the text says why."""


class Listener:
    """Accepts connections, each in a thread of its own.

    Args:
        server: listens already.
        purpose: of the connections, for the handshake.
        admit: takes over the connection of a peer that has proved to be of the job, and raises
            NotAdmittedError where it will not; it may stay for as long as the line is open.
    """

    def __init__(
        self, server: socket.socket, purpose: str, admit: Callable[[dict[str, Any], Line], None]
    ) -> None:
        self._server = server
        self._purpose = purpose
        self._admit = admit
        self._waiting: dict[Line, str] = {}  # with the address, the oldest first
        self._lock = threading.Lock()
        self._is_closed = False
        self._turned_away = _TurnedAway(server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accepts no more connections."""
        self._is_closed = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # close alone would leave the thread in accept
        self._server.close()
        with self._lock:
            for line in self._waiting:
                line.shutdown()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                connection, address = self._server.accept()
            except OSError as error:  # no more files, say; or the caller has hung up
                if not self._is_closed:
                    self._turned_away.count("", f"it could not be accepted: {error.strerror}")
                    time.sleep(PAUSE_SECONDS)
                continue
            try:
                line = Line(connection)
                self._wait(line, str(address[0]))
                threading.Thread(target=self._meet, args=(line,), daemon=True).start()
            except (OSError, RuntimeError) as error:  # it has hung up; no more threads
                self._turned_away.count(str(address[0]), f"it could not be heard: {error}")
                connection.close()

    def _wait(self, line: Line, address: str) -> None:
        """Takes a line into the waiting room, where another may have to go for it."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                ((crowding, _),) = Counter(self._waiting.values()).most_common(1)
                oldest = next(one for one, its in self._waiting.items() if its == crowding)
                del self._waiting[oldest]
                oldest.shutdown()  # its thread counts it
            self._waiting[line] = address

    def _meet(self, line: Line) -> None:
        there = line.there
        try:
            try:
                hello = handshake.welcome(line, self._purpose, job_secret(), handshake.SECONDS)
            finally:
                with self._lock:
                    self._waiting.pop(line, None)
            if not self._is_closed:
                self._admit(hello, line)
                return
        except TimeoutError:
            self._turned_away.count(there, f"it did not say who it is within {handshake.SECONDS:g} s")
        except (handshake.UnprovenError, NotAdmittedError, SettingsError) as error:
            self._turned_away.count(there, str(error))
        line.shutdown()
        line.close()


class _TurnedAway:
    """Counts who was turned away, and says so now and then."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._number = 0
        self._told_at = -LOG_INTERVAL_SECONDS

    def count(self, address: str, why: str) -> None:
        with self._lock:
            self._number += 1
            now = time.monotonic()
            if now - self._told_at < LOG_INTERVAL_SECONDS:
                return
            number, self._number, self._told_at = self._number, 0, now
        many = "1 connection" if number == 1 else f"{number} connections"
        line = "port %d: turned away %s; the last, from %s: %s"
        log.warning(line, self._port, many, address or "an address unknown", why)
