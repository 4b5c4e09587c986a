"""Where workers come to the leader: who is here, what they say, and how each is told something."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import Any

from llm_finetune.distributed.line import Line
from llm_finetune.errors import GroupError
from llm_finetune.launcher.ending import Ending

HELLO_SECONDS = 5.0
GONE = "gone: it was killed, or its machine or link failed"


@dataclass(frozen=True)
class Event:
    """Something that a worker said; None: it is gone."""

    name: str
    line: Line
    word: dict[str, Any] | None

    @property
    def ending(self) -> Ending | None:
        """The end of its part in a round, if this is one."""
        if self.word is None:
            return Ending(GroupError.exit_code, GONE)
        if "ended" in self.word:
            return Ending(**self.word["ended"])
        return Ending(GroupError.exit_code, "was started anew")


class Reception:
    """The workers' lines, each heard in a thread of its own.

    Args:
        port: where it listens.
        settings_digest: workers of other settings are turned away.
    """

    def __init__(self, port: int, settings_digest: str) -> None:
        self._settings_digest = settings_digest
        self._lines: dict[str, Line] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._server = _listening(port)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def here(self) -> set[str]:
        """The names of all workers that are here, as of the last event."""
        return set(self._lines)

    def address_for(self, name: str) -> str:
        """This machine's address, as that worker reached it."""
        return self._lines[name].here

    def next(self, seconds: float) -> Event | None:
        """The next event, the workers' lines brought up to date."""
        try:
            event = self._events.get(timeout=seconds)
        except Empty:
            return None
        is_new = event.word is not None and "hello" in event.word
        if is_new:
            # Two that live, as where a node comes back after its pod was made anew: else each would push the
            # other out for ever.
            if older := self._lines.get(event.name):
                _turn_away(older, f"another {event.name} came and takes this one's place")
            self._lines[event.name] = event.line
        elif self._lines.get(event.name) is not event.line:
            return None  # of a line that another has replaced already
        elif event.word is None or event.word["ended"]["asked"]:  # it leaves
            del self._lines[event.name]
        return event

    def dismiss(self, name: str) -> None:
        """Hangs up on a worker; one that still lives may come anew."""
        line = self._lines.pop(name, None)
        if line is not None:
            line.hang_up()

    def tell(self, names: set[str], word: dict[str, Any]) -> None:
        """Says it to those of them that are here."""
        for name in names & self.here:
            self._lines[name].say(json.dumps(word))

    def _accept(self) -> None:
        while True:
            line = Line(self._server.accept()[0])
            threading.Thread(target=self._listen, args=(line,), daemon=True).start()

    def _listen(self, line: Line) -> None:
        """Hears one worker to its end."""
        try:
            hello = json.loads(line.hear(HELLO_SECONDS))["hello"]
            name, digest = str(hello["name"]), hello["settings"]
        except (ValueError, KeyError, TypeError, TimeoutError):  # a port scanner, a health check
            line.hang_up()
            return
        if digest != self._settings_digest:
            _turn_away(line, f"{name} has other settings than the worker that leads")
            return
        self._events.put(Event(name, line, {"hello": hello}))
        while words := line.hear():
            self._events.put(Event(name, line, json.loads(words)))
        self._events.put(Event(name, line, None))


def _turn_away(line: Line, why: str) -> None:
    line.say(json.dumps({"leave": asdict(Ending(GroupError.exit_code, why))}))
    line.hang_up()


def _listening(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise GroupError(f"the leader cannot listen at port {port}: {error.strerror}") from error
