"""A worker's line to the leader: it is told to start or to stop, and says how its part ended."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

from llm_finetune.distributed.line import Line
from llm_finetune.errors import GroupError
from llm_finetune.launcher.ending import Ending
from llm_finetune.launcher.round import Round

CONNECT_SECONDS = 5.0
PAUSE_SECONDS = 1.0
NEWS_SECONDS = 30.0

log = logging.getLogger(__name__)


class StopError(Exception):
    """The leader wants this worker's ranks stopped: another round shall begin, or the job is over."""


class Member:
    """This worker, as the leader sees it.

    Args:
        name: the pod's.
        endpoint: host and port where the leader listens; the host's name may not be known yet.
        settings_digest: workers of other settings are of another job.
        patience_seconds: how long the leader may be away.
    """

    def __init__(
        self, name: str, endpoint: tuple[str, int], settings_digest: str, patience_seconds: float
    ) -> None:
        self.name = name
        self._endpoint = endpoint
        self._settings_digest = settings_digest
        self._patience_seconds = patience_seconds
        self._line: Line | None = None
        self._heard: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def next(self) -> Round | Ending:
        """Waits for the leader's word: a round to run, or how the job has ended.

        Raises:
            GroupError: the leader is away for longer than the patience.
        """
        while True:
            self._connect()
            word = self._heard.get()
            if "start" in word:
                return Round(**word["start"])
            if "leave" in word:
                return Ending(**word["leave"])
            if "gone" in word:
                log.warning("the worker that leads, at %s:%d, is gone; waiting for it", *self._endpoint)
                self._line = None

    def check(self) -> None:
        """Raises StopError when the leader wants this worker's ranks stopped, or is gone."""
        try:
            word = self._heard.get_nowait()
        except Empty:
            return
        self._heard.put(word)
        raise StopError(word.get("stop", "the worker that leads is gone"))

    def report(self, ending: Ending) -> None:
        """Says how this worker's part of the round ended, or that it cannot take part in any."""
        if self._line is None and ending.is_permanent:
            with suppress(OSError):  # before there is a leader, nobody waits for this worker
                self._call()
        if self._line is not None:
            self._line.say(json.dumps({"ended": asdict(ending)}))

    def _connect(self) -> None:
        """Comes to the leader, unless it is there already."""
        if self._line is not None:
            return
        began = said = time.monotonic()
        while self._line is None:
            try:
                self._call()
            except OSError as error:  # not there yet: no name, no route, or nobody listens
                now = time.monotonic()
                waited = f"waited {now - began:.0f} s for the worker that leads, at %s:%d (%s)"
                if now - began > self._patience_seconds:
                    raise GroupError(waited % (*self._endpoint, error)) from error
                if now - said > NEWS_SECONDS:
                    said = now
                    log.info(waited, *self._endpoint, error)
                time.sleep(PAUSE_SECONDS)

    def _call(self) -> None:
        """Calls the leader once, and says who calls."""
        line = Line(socket.create_connection(self._endpoint, CONNECT_SECONDS))
        line.say(json.dumps({"hello": {"name": self.name, "settings": self._settings_digest}}))
        self._heard = SimpleQueue()
        threading.Thread(target=_listen, args=(line, self._heard), daemon=True).start()
        self._line = line


def _listen(line: Line, heard: SimpleQueue[dict[str, Any]]) -> None:
    while words := line.hear():
        heard.put(json.loads(words))
    heard.put({"gone": True})
