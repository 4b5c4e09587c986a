"""Joining the process group, working in it, and leaving it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import DistError
from torch.distributed.distributed_c10d import Store

from llm_finetune.distributed import backends, oneccl
from llm_finetune.distributed.failure import Alarm, Failure
from llm_finetune.distributed.peer_monitor import PeerMonitor
from llm_finetune.distributed.store import LOG_INTERVAL_SECONDS, Rendezvous, connect
from llm_finetune.errors import GroupError, UserError
from llm_finetune.runtime.ranks import Ranks
from llm_finetune.runtime.watchdog import exit_on_timeout

Backend = Literal["gloo", "ccl"]

# gloo's patience with a peer that lives: one that stands still is found sooner (stallTimeoutMinutes), and one
# that loads or writes to a slow volume is waited for.
COLLECTIVE = timedelta(hours=4)


class Group:
    """All ranks of the run, as this one sees them; made by `join`."""

    def __init__(self, ranks: Ranks, rendezvous: Rendezvous, monitor: PeerMonitor | None = None) -> None:
        self.ranks = ranks
        self._rendezvous = rendezvous
        self._lifeline = monitor
        self._barriers = 0

    def report(self, exit_code: int, message: str, patience_seconds: float = 60.0) -> None:
        """Tells the peers that this rank has to leave, and lets rank 0 leave first.

        Callable from any thread, also while the main one hangs in a collective.

        Args:
            exit_code: the peers end with it too.
            patience_seconds: how long rank 0 may take, to keep what it has.
        """
        if self._lifeline:
            self._lifeline.report(Failure(self.ranks.rank, exit_code, message), patience_seconds)

    def on_failure(self, action: Callable[[Failure], None]) -> AbstractContextManager[None]:
        """While the body runs, `action` is called once, in a thread of its own, when a peer fails."""
        return self._rendezvous.alarm.on_trip(action)

    def store_set(self, key: str, value: str) -> None:
        """Leaves `value` under `key` for all ranks; each key is for one use."""
        self._rendezvous.store_set(key, value)

    def store_wait(self, key: str, deadline_seconds: float) -> str:
        """Waits, without burning a core, for what another rank publishes under `key`.

        Raises:
            GroupError: when the deadline has passed; at once when a rank fails or is lost, and then with
                that rank's exit code.
        """
        return self._rendezvous.store_wait(key, deadline_seconds)

    def on_rank_zero(self, key: str, make: Callable[[], str], deadline_seconds: float) -> str:
        """What `make` returns on rank 0, the only rank that calls it; the others wait for it.

        An error in `make` is for the body of `join` to let through: that tells the others.

        Raises:
            GroupError: on the other ranks, as `store_wait` does.
        """
        if not self.ranks.is_main_process:
            return self.store_wait(key, deadline_seconds)
        value = make()
        self.store_set(key, value)
        return value

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, in float64, on every rank; all ranks pass equally many values."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def all_reduce_max(self, values: Sequence[float]) -> list[float]:
        """The maxima over all ranks, in float64, on every rank."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def barrier(self, deadline_seconds: float) -> None:
        """Waits for all ranks, in the store: so it works and ends alike with every backend.

        Raises:
            GroupError: when the deadline has passed, naming who is missing, or when a rank is lost.
        """
        self._barriers += 1
        self._rendezvous.barrier(f"barrier {self._barriers}", deadline_seconds)

    def _reduced(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(list(values), dtype=torch.float64)
        if self.ranks.size > 1:
            dist.all_reduce(tensor, operation)
        return tensor.tolist()


@contextmanager
def join(
    backend: Backend,
    ranks: Ranks,
    deadline_seconds: float,
    *,
    leave_seconds: float = 6 * 3600.0,
    grace_seconds: float = 60.0,
    stall_seconds: float = math.inf,
) -> Iterator[Group]:
    """Joins the process group, proves that it works, and on leaving waits until all have done their work.

    After the joining `torch.distributed` is initialized, which accelerate and transformers find and use.
    One rank alone has no process group. Where the body raises, the group is left at once and the other
    ranks end with the same exit code.

    Args:
        deadline_seconds: for each step of the joining.
        leave_seconds: how long a rank that is done waits for the others, all of them alive.
        grace_seconds: how long a rank may take to leave after a peer failed, before it is ended.
        stall_seconds: how long a rank may live and do nothing.

    Raises:
        SettingsError: if the backend cannot work here.
        GroupError: if a rank is missing, lost or wrong.
    """
    backends.check_backend(backend, ranks.size)
    alarm = Alarm()
    rendezvous = Rendezvous(connect(ranks, deadline_seconds), ranks, alarm)
    monitor = PeerMonitor(ranks, alarm, grace_seconds, stall_seconds)
    if ranks.size == 1:
        monitor.watch()
        try:
            yield Group(ranks, rendezvous)
        finally:
            monitor.leave()
        return
    group = Group(ranks, rendezvous, monitor)
    with _tied(monitor, ranks, alarm):
        monitor.connect(rendezvous, deadline_seconds)
        backends.prepare(backend, ranks)
        _initialize(backend, ranks, rendezvous.store, deadline_seconds)
        yield group
        rendezvous.barrier("the end", leave_seconds)
        dist.destroy_process_group()


def _initialize(backend: Backend, ranks: Ranks, store: Store, deadline_seconds: float) -> None:
    """Makes torch's process group and proves it: a group that cannot work is often made without complaint."""

    def last_words() -> str:
        settings = f" with {oneccl.described()}" if backend == "ccl" else ""
        return (
            f"rank {ranks.rank} of {ranks.size}: the first all-reduce over {backend}{settings} did not come "
            f"back within {deadline_seconds:g} s. Can all ranks reach each other on that interface?"
        )

    if backend == "ccl":
        oneccl.load()
    with exit_on_timeout(deadline_seconds, last_words):
        dist.init_process_group(
            backend,
            store=store,
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=COLLECTIVE,
        )
        total = torch.tensor([ranks.rank + 1.0])
        dist.all_reduce(total)
    expected = ranks.size * (ranks.size + 1) / 2
    if total.item() != expected:
        raise GroupError(
            f"rank {ranks.rank} of {ranks.size}: the first all-reduce over {backend} gave {total.item():g}, "
            f"expected {expected:g}: are all ranks of the same run and the same torch?"
        )


@contextmanager
def _tied(monitor: PeerMonitor, ranks: Ranks, alarm: Alarm) -> Iterator[None]:
    """Tells the peers how the body ended, and the caller whose failure it was where a peer's broke it."""
    try:
        yield
    except BaseException as error:
        cause = _peers_failure(error, alarm)
        message = f"rank {ranks.rank} failed: {_summary(cause)}"
        monitor.announce_failure(Failure(ranks.rank, _exit_code(cause), message))
        if cause is error:
            raise
        raise cause from error
    monitor.leave()


def _peers_failure(error: BaseException, alarm: Alarm) -> BaseException:
    """A collective that a peer's death broke, as the GroupError it is; any other error as it is.

    gloo's errors are bare RuntimeErrors, known by the source file that they name; the store's, while gloo
    makes its connections, have a class.
    """
    if not (isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))):
        return error
    try:
        alarm.wait(LOG_INTERVAL_SECONDS)
    except GroupError as known:
        return known
    return GroupError(f"a collective failed though all ranks are there: {_summary(error)}")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code or 1  # exiting with 0 before the work is done is a failure to the others
    return 128 + 2 if isinstance(error, KeyboardInterrupt) else 1


def _summary(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
