"""The rendezvous store: small strings that the ranks leave for each other.

Waiting here polls about once a second, so it costs no core, and ends as soon as the alarm rings.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, HashStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from llm_finetune.distributed.failure import Alarm
from llm_finetune.distributed.job_secret import job_secret
from llm_finetune.errors import GroupError
from llm_finetune.runtime.ranks import Ranks, master

MAX_POLL_SECONDS = 1.0
LOG_INTERVAL_SECONDS = 2.0
LOOPBACK = ("127.0.0.1", "localhost")


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
        opened = {"wait_for_workers": False, **(_only_here(ranks, host, port) if serve else {})}
        store: Store = TCPStore(host, port, ranks.size, serve, patience, **opened)
        return store
    except (DistError, OSError, UnicodeError) as error:
        raise GroupError(f"the rendezvous store does not open at {host}:{port}: {error}") from error


class Rendezvous:
    """The store as one rank sees it.

    torch's store does not authenticate clients, so what ranks leave there is signed with the job's secret.
    """

    def __init__(self, store: Store, ranks: Ranks, alarm: Alarm) -> None:
        self.store = store
        self._ranks = ranks
        self.alarm = alarm
        self._secret = job_secret() if ranks.size > 1 else None

    def store_set(self, key: str, value: str) -> None:
        """Leaves `value` for all ranks."""
        self._set(f"value/{key}", value)

    def store_wait(self, key: str, deadline_seconds: float) -> str:
        """Waits for what another rank publishes.

        Raises:
            GroupError: when the deadline has passed, or as soon as a rank has failed or is lost.
        """

        def late() -> str:
            return (
                f"rank {self._ranks.rank} of {self._ranks.size} waited {deadline_seconds:g} s for "
                f"{key!r} in vain: the rank that should publish it is alive but not done."
            )

        self._wait([f"value/{key}"], deadline_seconds, late)
        return self._get(f"value/{key}")

    def barrier(self, place: str, deadline_seconds: float) -> None:
        """Waits until all ranks have arrived at `place`, each once.

        Raises:
            GroupError: when the deadline has passed, naming the ranks that are missing; or as soon as a
                rank has failed or is lost.
        """
        keys = [f"place/{place}/{rank}" for rank in range(self._ranks.size)]
        self._set(keys[self._ranks.rank], "")

        def late() -> str:
            missing = [rank for rank, key in enumerate(keys) if not self.store.check([key])]
            names = " and ".join(f"rank {rank}" for rank in missing)
            return f"{names} of {self._ranks.size} did not arrive at {place!r} within {deadline_seconds:g} s."

        self._wait(keys, deadline_seconds, late)
        for key in keys:
            self._get(key)

    def _set(self, key: str, value: str) -> None:
        with self._explained():
            self.store.set(key, self._signature(key, value) + value)

    def _get(self, key: str) -> str:
        with self._explained():
            content: bytes = self.store.get(key)
        text = content.decode(errors="replace")
        length = len(self._signature(key, ""))
        given, value = text[:length], text[length:]
        if not hmac.compare_digest(given.encode(), self._signature(key, value).encode()):
            raise GroupError(f"the rendezvous store holds a {key!r} that no rank of this job has written")
        return value

    def _signature(self, key: str, value: str) -> str:
        """Proof that a rank of this group has written it; empty where the job has no secret."""
        if self._secret is None:
            return ""
        group = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        signed = "\0".join(("store", group, key, value))
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()

    def _wait(self, keys: list[str], deadline_seconds: float, late: Callable[[], str]) -> None:
        end = time.monotonic() + deadline_seconds
        nap = 0.01
        with self._explained():
            while not self.store.check(keys):
                left = end - time.monotonic()
                if left <= 0:
                    raise GroupError(late())
                self.alarm.wait(min(nap, left))
                nap = min(2 * nap, MAX_POLL_SECONDS)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A store that does not answer is a rank that died: the lifeline knows which, a moment later."""
        try:
            yield
        except DistError as error:
            self.alarm.wait(LOG_INTERVAL_SECONDS)
            raise GroupError(f"the rendezvous store is lost, and rank 0 with it: {error}") from error


def _only_here(ranks: Ranks, host: str, port: int) -> dict[str, Any]:
    """Where all ranks are on this machine, no other machine can reach the store."""
    if ranks.local_size < ranks.size or host not in LOOPBACK:
        return {}
    return {"master_listen_fd": socket.create_server((host, port)).detach()}


def _wait_for_port(ranks: Ranks, host: str, port: int, deadline_seconds: float) -> None:
    """TCPStore would wait too, but beyond its timeout and with a C++ stack for each attempt."""
    end = time.monotonic() + deadline_seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())):
                return
        except (OSError, UnicodeError) as error:  # refused, no route, or a name that is not known yet
            if time.monotonic() + MAX_POLL_SECONDS > end:
                raise GroupError(
                    f"rank 0 of {ranks.size} did not open the rendezvous store at {host}:{port} "
                    f"within {deadline_seconds:g} s ({error})."
                ) from error
        time.sleep(MAX_POLL_SECONDS / 4)
