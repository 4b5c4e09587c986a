"""One TCP connection from each rank to rank 0, which tells when a rank fails, vanishes or stands still.

A death is noticed within a second and a cut link within half a minute, with every backend: gloo notices a
death only inside a collective, ccl never. A rank that lives says every few seconds how far it has come.

A rank that fails says so on its line before it leaves; rank 0 passes the first such word on to all others.
Each rank then has a time of grace to leave by itself: most waits end at once. One that still hangs, as every
collective of ccl does for ever, is ended.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

from llm_finetune.distributed import handshake
from llm_finetune.distributed.connection import Line
from llm_finetune.distributed.failure import Alarm, Failure
from llm_finetune.distributed.job_secret import job_secret, say_where_there_is_none
from llm_finetune.distributed.listener import Listener, NotAdmittedError
from llm_finetune.distributed.stall_detection import Stalls
from llm_finetune.distributed.store import LOG_INTERVAL_SECONDS, MAX_POLL_SECONDS, Rendezvous
from llm_finetune.errors import GroupError
from llm_finetune.host.network import address_towards
from llm_finetune.runtime import rank_progress
from llm_finetune.runtime.json_object import parsed
from llm_finetune.runtime.rank_progress import Progress
from llm_finetune.runtime.ranks import Ranks, master
from llm_finetune.runtime.watchdog import exit_after

ADDRESS, ALL_TIED = "lifeline/address", "lifeline/all tied"
PURPOSE = "ranks"
FAREWELL_SECONDS = 30.0

log = logging.getLogger(__name__)


class PeerMonitor:
    """This rank's connections: to rank 0, or on rank 0 to all others.

    Args:
        grace_seconds: how long this process may go on after a peer failed.
        stall_seconds: how long a rank may live and do nothing.
    """

    def __init__(
        self, ranks: Ranks, alarm: Alarm, grace_seconds: float, stall_seconds: float = math.inf
    ) -> None:
        self._ranks = ranks
        self._alarm = alarm
        self._grace_seconds = grace_seconds
        self._stall_seconds = stall_seconds
        self._lines: dict[int, Line] = {}
        self._hosts = {ranks.rank: _host()}
        self._listeners: list[threading.Thread] = []
        self._hearing = threading.Lock()
        self._leaving = False
        self._stalls: Stalls | None = None
        # A forked child (a data loader's worker) would hold the line open after this process has died.
        os.register_at_fork(after_in_child=self._close)

    def connect(self, rendezvous: Rendezvous, deadline_seconds: float) -> None:
        """Connects all ranks with rank 0, which publishes where it listens, and waits until all are there.

        Raises:
            GroupError: if a rank does not connect within the deadline, on every rank that did.
        """
        if self._ranks.rank == 0:
            say_where_there_is_none()
            self._accept_all(rendezvous, deadline_seconds)
            rendezvous.store_set(ALL_TIED, "")
        else:
            self._connect(rendezvous, deadline_seconds)
            # Rank 0 knows who is missing: its word shall come before this rank's own patience ends.
            rendezvous.store_wait(ALL_TIED, deadline_seconds + LOG_INTERVAL_SECONDS)
        self.watch()

    def watch(self) -> None:
        """From here on a rank that stands still is a failure, be it this one."""
        if self._stall_seconds < math.inf:
            ranks = self._ranks
            self._stalls = Stalls(ranks.rank, ranks.size, self._hosts, self._stall_seconds)
            threading.Thread(target=self._look, args=(self._stalls,), daemon=True).start()

    def announce_failure(self, failure: Failure) -> None:
        """Tells the peers that this rank leaves before the work is done."""
        self._leaving = True
        if self._alarm.trip(failure):
            self._pass_on(failure)
        self._disconnect()

    def report(self, failure: Failure, patience_seconds: float) -> None:
        """As `announce`, but lets rank 0 leave first: it may have something to keep before it goes."""
        self._leaving = True
        if self._alarm.trip(failure):
            self._pass_on(failure)
        if self._ranks.rank != 0:
            for listener in self._listeners:
                listener.join(patience_seconds)
        self._disconnect()

    def leave(self) -> None:
        """Leaves when the work is done. Rank 0 goes last: it holds the store and the other ends."""
        self._leaving = True
        if self._ranks.rank == 0:
            for listener in self._listeners:
                listener.join(FAREWELL_SECONDS)
        else:
            self._lines[0].send(json.dumps({"farewell": True}))
        self._disconnect()

    def _accept_all(self, rendezvous: Rendezvous, deadline_seconds: float) -> None:
        host = address_towards(master()[0])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        token = secrets.token_hex(16)
        came: SimpleQueue[tuple[int, str, Line]] = SimpleQueue()

        def admit(hello: dict[str, Any], line: Line) -> None:
            came.put((*self._newcomer(hello, token), line))

        end = time.monotonic() + deadline_seconds
        # Strangers take no place in the queue from ranks.
        server = socket.create_server((host, 0), family=family, backlog=socket.SOMAXCONN)
        address = f"{host} {server.getsockname()[1]} {token}"
        door = Listener(server, PURPOSE, admit)
        try:
            rendezvous.store_set(ADDRESS, address)
            while len(self._lines) < self._ranks.size - 1:
                self._alarm.wait(0.0)  # a rank that joined may be lost already
                try:
                    rank, there, line = came.get(timeout=min(1.0, max(0.0, end - time.monotonic())))
                except Empty:
                    if time.monotonic() < end:
                        continue
                    missing = sorted(set(range(1, self._ranks.size)) - set(self._lines))
                    names = " and ".join(f"rank {rank}" for rank in missing)
                    raise GroupError(
                        f"{names} of {self._ranks.size} did not join within {deadline_seconds:g} s. "
                        f"Is each started, and can it reach rank 0 at {host}?"
                    ) from None
                if rank in self._lines:  # the first connection under this number stays
                    line.shutdown()
                else:
                    self._hold(rank, there, line)
        finally:
            door.close()

    def _newcomer(self, hello: dict[str, Any], token: str) -> tuple[int, str]:
        """Which rank says so, and where it is."""
        rank, host, given = hello.get("rank"), hello.get("host"), hello.get("token")
        if not (isinstance(given, str) and hmac.compare_digest(given.encode(), token.encode())):
            raise NotAdmittedError("it is of another group, or of none")
        if type(rank) is not int or not 0 < rank < self._ranks.size:
            raise NotAdmittedError(f"it says that it is a rank that a group of {self._ranks.size} has not")
        if not isinstance(host, str) or not host.isprintable():
            raise NotAdmittedError("it does not say on which host it is")
        return rank, host

    def _connect(self, rendezvous: Rendezvous, deadline_seconds: float) -> None:
        place = rendezvous.store_wait(ADDRESS, deadline_seconds).split()
        if len(place) != 3 or not place[1].isdecimal():
            raise GroupError("the rendezvous store says nothing that rank 0 says of where it listens")
        host, port, token = place
        ranks = self._ranks
        hello = {"rank": ranks.rank, "host": _host(), "token": token}
        end = time.monotonic() + deadline_seconds
        while True:
            try:
                line = Line(socket.create_connection((host, int(port)), timeout=deadline_seconds))
                try:
                    handshake.introduce(line, PURPOSE, hello, job_secret())
                except OSError:
                    line.close()
                    raise
            except (OSError, OverflowError, UnicodeError) as error:
                # A door that strangers crowd, it may be, or another's behind that address.
                unheard = isinstance(error, (handshake.UnprovenError, TimeoutError))
                if unheard and time.monotonic() + MAX_POLL_SECONDS < end:
                    self._alarm.wait(MAX_POLL_SECONDS)
                    continue
                raise GroupError(
                    f"rank {ranks.rank} of {ranks.size} could not reach rank 0 at {host}:{port} "
                    f"within {deadline_seconds:g} s ({error}): is a firewall or network policy between them?"
                ) from error
            self._hold(0, host, line)
            return

    def _hold(self, peer: int, host: str, line: Line) -> None:
        self._lines[peer], self._hosts[peer] = line, host
        listener = threading.Thread(target=self._listen, args=(peer, line), daemon=True)
        listener.start()
        self._listeners.append(listener)

    def _listen(self, peer: int, line: Line) -> None:
        """Blocks until the peer leaves, fails or is lost; runs in a thread of its own."""
        while words := line.receive():
            word = parsed(words)
            if progress := Progress.from_word(word.get("progress")):
                if self._stalls:
                    self._stalls.heard(peer, progress)
                continue
            if self._stalls:
                self._stalls.left(peer)
            if "farewell" in word or self._leaving:
                return
            self._heard_of(Failure.from_word(word.get("failure")) or self._strange(peer), peer)
            return
        if self._stalls:
            self._stalls.left(peer)
        if not self._leaving:
            self._heard_of(self._vanished(peer), peer)

    def _look(self, stalls: Stalls) -> None:
        """Says every few seconds how far this rank has come, and looks who stands still."""
        while not self._leaving and self._alarm.failure is None:
            began = time.monotonic()
            time.sleep(stalls.every_seconds)
            if time.monotonic() - began > 2 * stalls.every_seconds:
                stalls.excuse()
            mine = rank_progress.now()
            stalls.heard(self._ranks.rank, mine)
            for line in self._lines.values():
                line.send(json.dumps({"progress": asdict(mine)}))
            if not self._leaving and (failure := stalls.verdict()):
                log.error("%s", failure.message)
                self._heard_of(failure)

    def _heard_of(self, failure: Failure, peer: int | None = None) -> None:
        """Tells the others, and has this process leave."""
        # One at a time: a peer that leaves for the word passed on to it is not the first failure.
        with self._hearing:
            # Passed on before the alarm rings here: once it rings, this process may end.
            if self._alarm.failure is None:
                self._pass_on(failure, except_to=peer)
            first = self._alarm.trip(failure)
        if first:
            words = (
                f"{failure.message} This rank was killed: it did not exit within {self._grace_seconds:g} s."
            )
            exit_after(self._grace_seconds, lambda: words, failure.exit_code)
            self._alarm.act()

    def _vanished(self, peer: int) -> Failure:
        message = f"rank {peer} of {self._ranks.size} is lost: it was killed, or its machine or link failed."
        return Failure(peer, GroupError.exit_code, message)

    def _strange(self, peer: int) -> Failure:
        message = f"rank {peer} of {self._ranks.size} sent an invalid message: does it run another version?"
        return Failure(peer, GroupError.exit_code, message)

    def _pass_on(self, failure: Failure, except_to: int | None = None) -> None:
        for rank, line in list(self._lines.items()):  # still growing while ranks join
            if rank != except_to:
                line.send(json.dumps({"failure": asdict(failure)}))

    def _disconnect(self) -> None:
        for line in self._lines.values():
            line.shutdown()

    def _close(self) -> None:
        for line in self._lines.values():
            line.close()


def _host() -> str:
    """This machine, as its users know it: in a cluster the pod."""
    return os.environ.get("POD_NAME") or socket.gethostname()
