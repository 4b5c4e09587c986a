"""The rendezvous store: small strings that the ranks leave for each other.

Waiting here polls about once a second, so it costs no core, and ends as soon as the alarm rings.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import DistError, HashStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from llm_finetune.distributed.alarm import Alarm
from llm_finetune.distributed.ranks import Ranks, master
from llm_finetune.errors import GroupError

LONGEST_NAP = 1.0
NEWS_SECONDS = 2.0


def connect(ranks: Ranks, deadline_seconds: float) -> Store:
    """Opens the store: rank 0's, torch's agent's where it shares its own, or this process's if it is alone.

    Raises:
        GroupError: if it cannot be opened or reached within the deadline.
    """
    if ranks.size == 1:
        alone: Store = HashStore()
        return alone
    host, port = master()
    agent_has_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serve = ranks.rank == 0 and not agent_has_it
    if not serve:
        _wait_for_port(ranks, host, port, deadline_seconds)
    try:
        patience = timedelta(seconds=deadline_seconds)
        store: Store = TCPStore(host, port, ranks.size, serve, patience, wait_for_workers=False)
        return store
    except DistError as error:
        raise GroupError(f"the rendezvous store does not open at {host}:{port}: {error}") from error


class Rendezvous:
    """The store as one rank sees it."""

    def __init__(self, store: Store, ranks: Ranks, alarm: Alarm) -> None:
        self.store = store
        self._ranks = ranks
        self.alarm = alarm

    def publish(self, key: str, value: str) -> None:
        """Leaves `value` for all ranks."""
        with self._explained():
            self.store.set(f"value/{key}", value)

    def await_value(self, key: str, deadline_seconds: float) -> str:
        """Waits for what another rank publishes.

        Raises:
            GroupError: when the deadline has passed, or as soon as a rank has failed or is gone.
        """

        def late() -> str:
            return (
                f"rank {self._ranks.rank} of {self._ranks.size} waited {deadline_seconds:g} s for "
                f"{key!r} in vain: the rank that should publish it is alive but not done."
            )

        self._wait([f"value/{key}"], deadline_seconds, late)
        with self._explained():
            value: bytes = self.store.get(f"value/{key}")
            return value.decode()

    def arrive(self, place: str, deadline_seconds: float) -> None:
        """Waits until all ranks have arrived at `place`, each once.

        Raises:
            GroupError: when the deadline has passed, naming the ranks that are missing; or as soon as a
                rank has failed or is gone.
        """
        keys = [f"place/{place}/{rank}" for rank in range(self._ranks.size)]
        with self._explained():
            self.store.set(keys[self._ranks.rank], "")

        def late() -> str:
            missing = [rank for rank, key in enumerate(keys) if not self.store.check([key])]
            names = " and ".join(f"rank {rank}" for rank in missing)
            return f"{names} of {self._ranks.size} did not arrive at {place!r} within {deadline_seconds:g} s."

        self._wait(keys, deadline_seconds, late)

    def _wait(self, keys: list[str], deadline_seconds: float, late: Callable[[], str]) -> None:
        end = time.monotonic() + deadline_seconds
        nap = 0.01
        with self._explained():
            while not self.store.check(keys):
                left = end - time.monotonic()
                if left <= 0:
                    raise GroupError(late())
                self.alarm.wait(min(nap, left))
                nap = min(2 * nap, LONGEST_NAP)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A store that does not answer is a rank that died: the lifeline knows which, a moment later."""
        try:
            yield
        except DistError as error:
            self.alarm.wait(NEWS_SECONDS)
            raise GroupError(f"the rendezvous store is gone, and rank 0 with it: {error}") from error


def _wait_for_port(ranks: Ranks, host: str, port: int, deadline_seconds: float) -> None:
    """TCPStore would wait too, but beyond its timeout and with a C++ stack for each attempt."""
    end = time.monotonic() + deadline_seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())):
                return
        except OSError as error:  # refused, no route, or a name that is not known yet
            if time.monotonic() + LONGEST_NAP > end:
                raise GroupError(
                    f"rank 0 of {ranks.size} did not open the rendezvous store at {host}:{port} "
                    f"within {deadline_seconds:g} s ({error})."
                ) from error
        time.sleep(LONGEST_NAP / 4)
