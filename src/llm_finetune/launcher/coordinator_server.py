"""The coordinator's server: connected workers, their messages, and sending to each."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from typing import Any

from llm_finetune.distributed.connection import Line
from llm_finetune.distributed.listener import Listener, NotAdmittedError
from llm_finetune.errors import GroupError
from llm_finetune.runtime.json_object import parsed
from llm_finetune.runtime.outcome import Outcome

PURPOSE = "workers"
GONE = "lost: it was killed, or its machine or link failed"
LONGEST_NAME = 253  # of a pod
MOST_EVENTS = 1000  # that are not handled yet; a worker that sends more has to wait
PULSE_SECONDS = 5.0  # from one sign that this process runs to the next


@dataclass(frozen=True)
class Event:
    """A message of a worker, or its loss.

    Attributes:
        ending: of its part in a round; of the part that it had before, where it has come just now.
    """

    name: str
    line: Line
    ending: Outcome
    has_come: bool = False
    is_gone: bool = False


class CoordinatorServer:
    """The workers' lines, each heard in a thread of its own.

    Args:
        port: where it listens.
        settings_digest: workers of other settings are turned away.
    """

    def __init__(self, port: int, settings_digest: str) -> None:
        self._settings_digest = settings_digest
        self._lines: dict[str, Line] = {}
        self._open: set[Line] = set()
        self._events: Queue[Event] = Queue(MOST_EVENTS)
        Listener(_listening(port), PURPOSE, self._hear)
        threading.Thread(target=self._give_pulse, daemon=True).start()

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
        if event.has_come:
            # Two that live, as where a node comes back after its pod was replaced: else each would push the
            # other out for ever.
            if older := self._lines.get(event.name):
                _turn_away(older, f"another {event.name} came and takes this one's place")
            self._lines[event.name] = event.line
        elif self._lines.get(event.name) is not event.line:
            return None  # of a line that another has replaced already
        elif event.is_gone or event.ending.asked:  # it leaves
            del self._lines[event.name]
        return event

    def dismiss(self, name: str) -> None:
        """Hangs up on a worker; one that is alive may reconnect."""
        line = self._lines.pop(name, None)
        if line is not None:
            line.shutdown()

    def tell(self, names: set[str], word: dict[str, Any]) -> None:
        """Says it to those of them that are here."""
        for name in names & self.here:
            self._lines[name].send(json.dumps(word))

    def _hear(self, hello: dict[str, Any], line: Line) -> None:
        """Hears one worker to its end."""
        name, digest = hello.get("name"), hello.get("settings")
        if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST_NAME):
            raise NotAdmittedError("it says no name that a worker has")
        if digest != self._settings_digest:
            why = f"{name} has other settings than the coordinator"
            _turn_away(line, why)
            raise NotAdmittedError(why)
        self._open.add(line)
        self._events.put(Event(name, line, Outcome(GroupError.exit_code, "was restarted"), has_come=True))
        while words := line.receive():
            ending = Outcome.from_word(parsed(words).get("ended"))
            if ending is None:  # what no worker says
                break
            self._events.put(Event(name, line, ending))
        self._open.discard(line)
        line.shutdown()
        self._events.put(Event(name, line, Outcome(GroupError.exit_code, GONE), is_gone=True))

    def _give_pulse(self) -> None:
        """So the workers know that this process runs: the kernel answers for one that is stopped."""
        while True:
            time.sleep(PULSE_SECONDS)
            for line in list(self._open):
                line.send(json.dumps({"pulse": True}))


def _turn_away(line: Line, why: str) -> None:
    line.send(json.dumps({"leave": asdict(Outcome(GroupError.exit_code, why))}))
    line.shutdown()


def _listening(port: int) -> socket.socket:
    try:
        # Strangers take no place in the queue from workers.
        queue = socket.SOMAXCONN
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=queue
            )
        return socket.create_server(("", port), backlog=queue)
    except (OSError, OverflowError) as error:
        raise GroupError(f"the coordinator cannot listen on port {port}: {error}") from error
