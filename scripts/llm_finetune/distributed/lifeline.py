"""One TCP connection from each rank to rank 0, which tells when a rank fails or vanishes.

A death is noticed within a second and a cut link within half a minute, with every backend: gloo notices a
death only inside a collective, ccl never.

A rank that fails says so on its line before it leaves; rank 0 passes the first such word on to all others.
Each rank then has a time of grace to leave by itself: most waits end at once. One that still hangs, as every
collective of ccl does for ever, is ended.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict

from llm_finetune.distributed.alarm import Alarm, Failure
from llm_finetune.distributed.line import Line
from llm_finetune.distributed.network import address_towards
from llm_finetune.distributed.ranks import Ranks, master
from llm_finetune.distributed.store import NEWS_SECONDS, Rendezvous
from llm_finetune.distributed.watch import end_after
from llm_finetune.errors import GroupError

ADDRESS, ALL_TIED = "lifeline/address", "lifeline/all tied"
FAREWELL = "farewell"
FAREWELL_SECONDS = 30.0
HELLO_SECONDS = 5.0


class Lifeline:
    """This rank's connections: to rank 0, or on rank 0 to all others.

    Args:
        grace_seconds: how long this process may go on after a peer failed.
    """

    def __init__(self, ranks: Ranks, alarm: Alarm, grace_seconds: float) -> None:
        self._ranks = ranks
        self._alarm = alarm
        self._grace_seconds = grace_seconds
        self._lines: dict[int, Line] = {}
        self._listeners: list[threading.Thread] = []
        self._hearing = threading.Lock()
        self._leaving = False
        # A forked child (a data loader's worker) would hold the line open after this process has died.
        os.register_at_fork(after_in_child=self._close)

    def tie(self, rendezvous: Rendezvous, deadline_seconds: float) -> None:
        """Connects all ranks with rank 0, which publishes where it listens, and waits until all are there.

        Raises:
            GroupError: if a rank does not connect within the deadline, on every rank that did.
        """
        if self._ranks.rank == 0:
            self._accept_all(rendezvous, deadline_seconds)
            rendezvous.publish(ALL_TIED, "")
        else:
            self._connect(rendezvous, deadline_seconds)
            # Rank 0 knows who is missing: its word shall come before this rank's own patience ends.
            rendezvous.await_value(ALL_TIED, deadline_seconds + NEWS_SECONDS)

    def announce(self, failure: Failure) -> None:
        """Tells the peers that this rank leaves before the work is done."""
        self._leaving = True
        if self._alarm.ring(failure):
            self._pass_on(failure)
        self._hang_up()

    def report(self, failure: Failure, patience_seconds: float) -> None:
        """As `announce`, but lets rank 0 leave first: it may have something to keep before it goes."""
        self._leaving = True
        if self._alarm.ring(failure):
            self._pass_on(failure)
        if self._ranks.rank != 0:
            for listener in self._listeners:
                listener.join(patience_seconds)
        self._hang_up()

    def farewell(self) -> None:
        """Leaves when the work is done. Rank 0 goes last: it holds the store and the other ends."""
        self._leaving = True
        if self._ranks.rank == 0:
            for listener in self._listeners:
                listener.join(FAREWELL_SECONDS)
        else:
            self._lines[0].say(FAREWELL)
        self._hang_up()

    def _accept_all(self, rendezvous: Rendezvous, deadline_seconds: float) -> None:
        host = address_towards(master()[0])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        token = secrets.token_hex(16)
        end = time.monotonic() + deadline_seconds
        with socket.create_server((host, 0), family=family, backlog=self._ranks.size) as server:
            rendezvous.publish(ADDRESS, f"{host} {server.getsockname()[1]} {token}")
            while len(self._lines) < self._ranks.size - 1:
                self._alarm.wait(0.0)  # a rank that joined may be gone again
                try:
                    server.settimeout(min(1.0, max(0.0, end - time.monotonic())))
                    line = Line(server.accept()[0])
                    said, _, rank = line.hear(HELLO_SECONDS).partition(" ")
                except OSError:
                    if time.monotonic() < end:
                        continue
                    missing = sorted(set(range(1, self._ranks.size)) - set(self._lines))
                    names = " and ".join(f"rank {rank}" for rank in missing)
                    raise GroupError(
                        f"{names} of {self._ranks.size} did not join within {deadline_seconds:g} s. "
                        f"Is each started, and can it reach rank 0 at {host}?"
                    ) from None
                if said == token:
                    self._hold(int(rank), line)
                else:  # a stranger: a port scanner, a health check
                    line.close()

    def _connect(self, rendezvous: Rendezvous, deadline_seconds: float) -> None:
        host, port, token = rendezvous.await_value(ADDRESS, deadline_seconds).split()
        try:
            line = Line(socket.create_connection((host, int(port)), timeout=deadline_seconds))
        except OSError as error:
            raise GroupError(
                f"rank {self._ranks.rank} of {self._ranks.size} could not reach rank 0 at {host}:{port} "
                f"within {deadline_seconds:g} s ({error}): is a firewall or a network policy between them?"
            ) from error
        line.say(f"{token} {self._ranks.rank}")
        self._hold(0, line)

    def _hold(self, peer: int, line: Line) -> None:
        self._lines[peer] = line
        listener = threading.Thread(target=self._listen, args=(peer, line), daemon=True)
        listener.start()
        self._listeners.append(listener)

    def _listen(self, peer: int, line: Line) -> None:
        """Blocks until the peer speaks or is gone; runs in a thread of its own."""
        word = line.hear()
        if word == FAREWELL or self._leaving:
            return
        failure = Failure(**json.loads(word)) if word else self._vanished(peer)
        # One at a time: a peer that leaves for the word passed on to it is not the first failure.
        with self._hearing:
            # Passed on before the alarm rings here: once it rings, this process may end.
            if self._alarm.failure is None:
                self._pass_on(failure, except_to=peer)
            first = self._alarm.ring(failure)
        if first:
            words = f"{failure.message} This rank is ended: it did not leave in {self._grace_seconds:g} s."
            end_after(self._grace_seconds, lambda: words, failure.exit_code)
            self._alarm.act()

    def _vanished(self, peer: int) -> Failure:
        message = f"rank {peer} of {self._ranks.size} is gone: it was killed, or its machine or link failed."
        return Failure(peer, GroupError.exit_code, message)

    def _pass_on(self, failure: Failure, except_to: int | None = None) -> None:
        for rank, line in list(self._lines.items()):  # still growing while ranks join
            if rank != except_to:
                line.say(json.dumps(asdict(failure)))

    def _hang_up(self) -> None:
        for line in self._lines.values():
            line.hang_up()

    def _close(self) -> None:
        for line in self._lines.values():
            line.close()
