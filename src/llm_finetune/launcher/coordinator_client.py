"""A worker's connection to the coordinator, which starts and stops it and gets its outcome."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from queue import Empty, SimpleQueue

from llm_finetune.distributed import handshake
from llm_finetune.distributed.connection import Line
from llm_finetune.distributed.job_secret import job_secret
from llm_finetune.errors import GroupError
from llm_finetune.launcher.coordinator_server import PULSE_SECONDS, PURPOSE
from llm_finetune.launcher.round import Round
from llm_finetune.runtime.json_object import parsed
from llm_finetune.runtime.outcome import Outcome

CONNECT_SECONDS = 5.0
PAUSE_SECONDS = 1.0
LOG_INTERVAL_SECONDS = 30.0

log = logging.getLogger(__name__)


class StopError(Exception):
    """The coordinator wants this worker's ranks stopped: another round shall begin, or the job is over."""


class GoneError(StopError):
    """The coordinator is lost or stalled."""


Word = Round | Outcome | StopError


class CoordinatorClient:
    """This worker, as the coordinator sees it.

    Args:
        name: the pod's.
        endpoint: host and port where the coordinator listens; the host's name may not be known yet.
        settings_digest: workers of other settings are of another job.
        patience_seconds: how long the coordinator may be away.
        stall_seconds: how long it may be there and say nothing.
    """

    def __init__(
        self,
        name: str,
        endpoint: tuple[str, int],
        settings_digest: str,
        patience_seconds: float,
        stall_seconds: float = math.inf,
    ) -> None:
        self.name = name
        self._endpoint = endpoint
        self._settings_digest = settings_digest
        self._patience_seconds = patience_seconds
        self._silence_seconds = max(stall_seconds, 3 * PULSE_SECONDS) if stall_seconds < math.inf else None
        self._line: Line | None = None
        self._heard: SimpleQueue[Word] = SimpleQueue()
        self._away_since: float | None = None

    def next(self) -> Round | Outcome:
        """Waits for the coordinator: a round to run, or how the job has ended.

        Raises:
            GroupError: the coordinator is away for longer than the patience.
        """
        while True:
            self._connect()
            word = self._heard.get()
            if isinstance(word, Round | Outcome):
                return word
            if isinstance(word, GoneError):
                self._disconnect()
                away_seconds = time.monotonic() - (self._away_since or math.inf)
                if away_seconds > self._patience_seconds:  # it answers, and never says a word
                    raise GroupError(f"{word}; no answer for {away_seconds:.0f} s")
                log.warning("%s; reconnecting", word)
                time.sleep(PAUSE_SECONDS)  # one that hangs up at once would be called without a pause

    def check(self) -> None:
        """Raises StopError when the coordinator stops this worker's ranks, or is lost."""
        try:
            word = self._heard.get_nowait()
        except Empty:
            return
        self._heard.put(word)
        raise word if isinstance(word, StopError) else StopError("the coordinator restarts")

    def report(self, ending: Outcome) -> None:
        """Says how this worker's part of the round ended, or that it cannot take part in any."""
        if self._line is None and ending.is_permanent:
            with suppress(OSError):  # before there is a coordinator, none waits for this worker
                self._call()
        if self._line is not None:
            self._line.send(json.dumps({"ended": asdict(ending)}))

    def _connect(self) -> None:
        """Connects to the coordinator, unless it is connected already."""
        if self._line is not None:
            return
        said = time.monotonic()
        self._away_since = began = self._away_since or said
        while self._line is None:
            try:
                self._call()
            except OSError as error:  # not there yet: no name, no route, no listener, or a stranger
                now = time.monotonic()
                waited = f"waited {now - began:.0f} s for the coordinator at %s:%d (%s)"
                if now - began > self._patience_seconds:
                    raise GroupError(waited % (*self._endpoint, error)) from error
                if now - said > LOG_INTERVAL_SECONDS:
                    said = now
                    log.info(waited, *self._endpoint, error)
                time.sleep(PAUSE_SECONDS)

    def _call(self) -> None:
        """Connects to the coordinator once, and introduces this worker."""
        line = Line(socket.create_connection(self._endpoint, CONNECT_SECONDS))
        hello = {"name": self.name, "settings": self._settings_digest}
        try:
            handshake.introduce(line, PURPOSE, hello, job_secret())
        except OSError:
            line.close()
            raise
        self._heard = SimpleQueue()
        threading.Thread(target=self._listen, args=(line, self._heard), daemon=True).start()
        self._line = line

    def _listen(self, line: Line, heard: SimpleQueue[Word]) -> None:
        there = "the coordinator at {}:{}".format(*self._endpoint)
        try:
            while words := line.receive(self._silence_seconds):
                self._away_since = None
                if (word := understood(words)) is not None:
                    heard.put(word)
            heard.put(GoneError(f"lost connection to {there}"))
        except TimeoutError:
            heard.put(GoneError(f"{there} sent no message for {self._silence_seconds:g} s"))
        line.shutdown()

    def _disconnect(self) -> None:
        if self._line is not None:
            self._line.shutdown()
            self._line.close()
            self._line = None


def understood(words: str) -> Word | None:
    """What a coordinator's line means; None for a sign of life, or for what no coordinator sends."""
    said = parsed(words)
    if isinstance(why := said.get("stop"), str):
        return StopError(why)
    return Round.from_word(said.get("start")) or Outcome.from_word(said.get("leave"))
