"""The leader, which lives in worker-0: it waits for workers, starts rounds, and judges how they ended.

Its memory is on the volume and its workers come to it anew, so nothing of an earlier round can poison the
next. Rank 0 runs beside it: where the leader is gone, so is rank 0.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from llm_finetune.distributed.line import Line
from llm_finetune.errors import GroupError, RestartsError, UserError
from llm_finetune.launcher.ending import Ending
from llm_finetune.launcher.judgement import cause_of, is_done
from llm_finetune.launcher.round import Round
from llm_finetune.launcher.signs import Signs
from llm_finetune.launcher.tally import Tally

HELLO_SECONDS = 5.0
NEWS_SECONDS = 30.0
SETTLE_SECONDS = 5.0
GONE = "gone: it was killed, or its machine or link failed"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crew:
    """How many workers a round has.

    Attributes:
        wanted: waited for before the first round.
        least, most: a later round goes on with as few, and takes no more.
        patience_seconds: how long the wanted ones are waited for before the first round, and the least
            before any.
        lost_seconds: how long a lost worker is waited for before the others go on without it.
    """

    wanted: int
    least: int
    most: int
    patience_seconds: float
    lost_seconds: float


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


class Leader:
    """Leads the job's rounds in threads of its own, until it is over.

    Args:
        name: of the worker that it lives in, whose ranks come first.
        settings_digest: workers of other settings are turned away.
    """

    def __init__(
        self, name: str, port: int, settings_digest: str, crew: Crew, tally: Tally, signs: Signs
    ) -> None:
        self._name = name
        self._settings_digest = settings_digest
        self._crew = crew
        self._tally = tally
        self._signs = signs
        self._job = name.removesuffix("0")
        self._lines: dict[str, Line] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._server = _listening(port)
        threading.Thread(target=self._accept, daemon=True).start()
        self._leading = threading.Thread(target=self._lead, daemon=True)
        self._leading.start()

    def wait(self) -> None:
        """Waits until all workers have been told how the job ended."""
        self._leading.join(NEWS_SECONDS)

    def _lead(self) -> None:
        try:
            verdict = self._judge_rounds()
        except UserError as error:
            verdict = Ending(error.exit_code, str(error))
        except Exception as error:  # the workers wait for a word
            log.exception("the leader failed")
            verdict = Ending(1, f"the leader failed: {type(error).__name__}: {error}")
        if self._name not in self._lines:  # judged before anybody came to hear it
            self._gather()
        self._tell(set(self._lines), {"leave": asdict(verdict)})

    def _judge_rounds(self) -> Ending:
        """Runs rounds until the job is over."""
        self._signs.await_other_job(self._job, self._crew.patience_seconds)
        verdict = None
        if self._tally.is_unfinished:  # this worker was killed in it, and could not say so
            words = f"a round ended without a word{self._signs.left() or self._never_seen()}"
            verdict = self._over(Ending(GroupError.exit_code, words))
        while verdict is None:
            verdict = self._over(self._round())
        self._tally.finish()
        return verdict

    def _never_seen(self) -> str:
        return (
            f"; {self._name} was killed before its first sign of life: is there too little memory to load "
            "what it needs (resources.memoryLimit)?"
        )

    def _round(self) -> Ending:
        """One round, or the reason why there is none."""
        refusal = self._gather()
        if refusal is not None:
            return refusal
        names = self._in_order()
        self._start(self._tally.begin(), names)
        endings = self._watch(names)
        return Ending(0, "done") if is_done(endings, first=names[0]) else cause_of(endings)

    def _over(self, ending: Ending) -> Ending | None:
        """How the job ends with this; None where another round shall begin."""
        if ending.exit_code == 0 or ending.is_permanent:
            return ending
        failures, allowed = self._tally.count(ending), self._tally.allowed
        if failures > allowed:
            return Ending(
                RestartsError.exit_code,
                f"gave up after {allowed} restarts (elasticPolicy.maxRestarts); "
                f"the last failure: {ending.message}",
            )
        kind = "asked for" if ending.asked else f"failure {failures}, {allowed} are allowed"
        log.warning("the round is over (%s): %s", kind, ending.message)
        return None

    def _gather(self) -> Ending | None:
        """Waits for workers; the reason where too few come."""
        crew, began, said = self._crew, time.monotonic(), 0.0
        all_seconds = crew.lost_seconds if self._tally.number else crew.patience_seconds
        while (count := len(self._lines)) < crew.wanted or self._name not in self._lines:
            if self._name not in self._lines:  # this worker itself still waits for data
                began = time.monotonic()
            waited = time.monotonic() - began
            if waited >= all_seconds and count >= crew.least:
                log.warning("going on with %d of %d workers: %s", count, crew.wanted, self._here())
                return None
            if waited >= crew.patience_seconds:
                minutes = crew.patience_seconds / 60
                return Ending(
                    GroupError.exit_code,
                    f"{count} of {crew.wanted} workers came within {minutes:g} min: {self._here()}; "
                    f"at least {crew.least} must. Are the others' pods running (kubectl get pods)?",
                )
            if waited - said > NEWS_SECONDS:
                said = waited
                log.info("%d of %d workers are here: %s", count, crew.wanted, self._here())
            event = self._next(1.0)
            if event and event.ending and event.ending.is_permanent:  # it could not even come to a round
                return cause_of({event.name: event.ending})
        return None

    def _start(self, number: int, names: list[str]) -> None:
        # Where rank 0's machine is, as another worker reached it.
        there = self._lines[names[-1]].here
        this = Round(number, 0, len(names), there, _free_port())
        log.info("round %d begins with %d workers: %s", number, len(names), ", ".join(names))
        for place, name in enumerate(names):
            self._tell({name}, {"start": asdict(replace(this, group_rank=place))})

    def _watch(self, names: list[str]) -> dict[str, Ending]:
        """Waits until each worker's part has ended. A failure stops the others, and so does a newcomer."""
        endings: dict[str, Ending] = {}
        settled: float | None = None
        while running := [name for name in names if name not in endings]:
            event = self._next(1.0)
            ending = event.ending if event else None
            if event and ending and (event.name in running or ending.is_permanent):
                if ending.message == GONE:
                    ending = replace(ending, message=GONE + self._signs.last(event.name))
                endings[event.name] = ending
            came_back = len(names) < self._crew.most and set(self._lines) - set(names)
            if came_back and not endings:
                back = " and ".join(sorted(came_back))
                self._tell(set(running), {"stop": f"{back} came: all begin again from the last step"})
                endings[min(came_back)] = Ending(GroupError.exit_code, f"{back} came", asked=True)
            failed = any(ending.exit_code for ending in endings.values())
            if failed and settled is None:
                # Most ranks leave by themselves meanwhile, with better words.
                settled = time.monotonic() + SETTLE_SECONDS
            if settled is not None and time.monotonic() > settled:
                settled = float("inf")
                self._tell(set(running), {"stop": cause_of(endings).message})
        return endings

    def _next(self, seconds: float) -> Event | None:
        """The next event, the workers' lines brought up to date."""
        try:
            event = self._events.get(timeout=max(0.01, seconds))
        except Empty:
            return None
        if event.word is None:
            if self._lines.get(event.name) is not event.line:
                return None  # the end of a line that another has replaced already
            del self._lines[event.name]
        elif event.word.get("ended", {}).get("asked"):  # it leaves
            self._lines.pop(event.name, None)
        elif "hello" in event.word:
            old = self._lines.pop(event.name, None)
            if old is not None:
                old.hang_up()
            self._lines[event.name] = event.line
        return event

    def _in_order(self) -> list[str]:
        """This worker first, the others by their numbers."""
        names = sorted(self._lines, key=lambda name: (name != self._name, len(name), name))
        return names[: self._crew.most]

    def _here(self) -> str:
        return ", ".join(self._in_order()) or "none"

    def _tell(self, names: set[str], word: dict[str, Any]) -> None:
        for name in names & set(self._lines):
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
            refusal = Ending(GroupError.exit_code, f"{name} has other settings than the worker that leads")
            line.say(json.dumps({"leave": asdict(refusal)}))
            line.hang_up()
            return
        self._events.put(Event(name, line, {"hello": hello}))
        while words := line.hear():
            self._events.put(Event(name, line, json.loads(words)))
        self._events.put(Event(name, line, None))


def _listening(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise GroupError(f"the leader cannot listen at port {port}: {error.strerror}") from error


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])
