"""The coordinator, which runs in worker-0: it waits for workers, starts rounds, and judges how they ended.

Its memory is on the volume and its workers reconnect to it, so no state of an earlier round can affect the
next. Rank 0 runs beside it: where the coordinator is lost, so is rank 0.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from llm_finetune.errors import GroupError, OutputError, RestartsError, UserError
from llm_finetune.launcher.coordinator_server import GONE, CoordinatorServer, Event
from llm_finetune.launcher.failure_cause import cause_of, is_done
from llm_finetune.launcher.pod_heartbeats import PodHeartbeats
from llm_finetune.launcher.restart_state import RestartState
from llm_finetune.launcher.round import Round
from llm_finetune.runtime.outcome import Outcome

LOG_INTERVAL_SECONDS = 30.0
SETTLE_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerLimits:
    """How many workers a round has.

    Attributes:
        wanted: waited for before the first round.
        least, most: a later round goes on with as few, and takes no more.
        patience_seconds: how long the wanted ones are waited for before the first round, and the least
            before any.
        lost_seconds: how long a lost worker is waited for before the others go on without it.
        grace_seconds: how long a worker may take to stop its ranks.
    """

    wanted: int
    least: int
    most: int
    patience_seconds: float
    lost_seconds: float
    grace_seconds: float


class LeavingError(Exception):
    """The coordinator's own worker was terminated: another pod takes over."""

    def __init__(self, ending: Outcome) -> None:
        super().__init__(ending.message)
        self.ending = ending


class Coordinator:
    """Leads the job's rounds in threads of its own, until it is over.

    Args:
        name: of the worker that it lives in, whose ranks come first.
        workers: who is here.
    """

    def __init__(
        self,
        name: str,
        workers: CoordinatorServer,
        limits: WorkerLimits,
        restarts: RestartState,
        heartbeats: PodHeartbeats,
    ) -> None:
        self._name = name
        self._workers = workers
        self._limits = limits
        self._restarts = restarts
        self._heartbeats = heartbeats
        self._job = name.removesuffix("0")
        self._leading = threading.Thread(target=self._lead, daemon=True)
        self._leading.start()

    def wait(self, seconds: float) -> None:
        """Waits until the coordinator has nothing more to do: no longer than so."""
        self._leading.join(seconds)

    def _lead(self) -> None:
        try:
            verdict = self._judge_rounds()
        except UserError as error:
            verdict = Outcome(error.exit_code, str(error))
        except Exception as error:  # the workers wait for a word
            log.exception("internal error in the coordinator")
            verdict = Outcome(1, f"internal error in the coordinator: {type(error).__name__}: {error}")
        if verdict is None:
            return
        with suppress(LeavingError):
            if self._name not in self._workers.here:  # judged before anybody came to hear it
                self._gather()
            end = time.monotonic() + SETTLE_SECONDS
            while len(self._workers.here) < self._limits.wanted and time.monotonic() < end:
                self._next()
        self._workers.tell(self._workers.here, {"leave": asdict(verdict)})

    def _judge_rounds(self) -> Outcome | None:
        """Runs rounds until the job is over; None where this worker leaves, for another pod to go on."""
        self._heartbeats.await_other_job(self._job, self._limits.patience_seconds)
        verdict = None
        if self._restarts.is_unfinished:  # this worker was killed in it, and could not say so
            words = f"a round ended unexpectedly{self._heartbeats.left() or self._never_seen()}"
            verdict = self._over(Outcome(GroupError.exit_code, words))
        try:
            while verdict is None:
                verdict = self._over(self._round())
        except LeavingError as told:
            self._restarts.count(told.ending)  # the next coordinator must not take it for a kill
            return None
        with suppress(OutputError):  # a volume that cannot be written does not change how the job ended
            self._restarts.finish()
        return verdict

    def _never_seen(self) -> str:
        return (
            f"; {self._name} was killed before its first heartbeat: is there too little memory to load "
            "what it needs (resources.memoryLimit)?"
        )

    def _round(self) -> Outcome:
        """One round, or the reason why there is none."""
        refusal = self._gather()
        if refusal is not None:
            return refusal
        names = self._in_order()
        self._start(self._restarts.begin(), names)
        endings = self._watch(names)
        return Outcome(0, "done") if is_done(endings, first=names[0]) else cause_of(endings)

    def _over(self, ending: Outcome) -> Outcome | None:
        """How the job ends with this; None where another round shall begin."""
        if ending.exit_code == 0 or ending.is_permanent:
            return ending
        failures, allowed = self._restarts.count(ending), self._restarts.allowed
        if failures > allowed:
            return Outcome(
                RestartsError.exit_code,
                f"gave up after {allowed} restarts (elasticPolicy.maxRestarts); "
                f"the last failure: {ending.message}",
            )
        what = "restart on request" if ending.asked else f"restart {failures} of {allowed}"
        log.warning("%s: %s", what, ending.message)
        return None

    def _gather(self) -> Outcome | None:
        """Waits for workers; the reason where too few come."""
        limits, began, said = self._limits, time.monotonic(), 0.0
        all_seconds = limits.lost_seconds if self._restarts.number else limits.patience_seconds
        while (count := len(self._workers.here)) < limits.wanted or self._name not in self._workers.here:
            if self._name not in self._workers.here:  # this worker itself still waits for data
                began = time.monotonic()
            waited = time.monotonic() - began
            if waited >= all_seconds and count >= limits.least:
                log.warning("continuing with %d of %d workers: %s", count, limits.wanted, self._here())
                return None
            if waited >= limits.patience_seconds:
                minutes = limits.patience_seconds / 60
                return Outcome(
                    GroupError.exit_code,
                    f"{count} of {limits.wanted} workers joined within {minutes:g} min: {self._here()}; "
                    f"at least {limits.least} must. Are the others' pods running (kubectl get pods)?",
                )
            if waited - said > LOG_INTERVAL_SECONDS:
                said = waited
                log.info("%d of %d workers have joined: %s", count, limits.wanted, self._here())
            event = self._next()
            if event and event.ending and event.ending.is_permanent:  # it could not even come to a round
                return cause_of({event.name: event.ending})
        return None

    def _start(self, number: int, names: list[str]) -> None:
        # Where rank 0's machine is, as another worker reached it.
        there = self._workers.address_for(names[-1])
        this = Round(number, 0, len(names), there, _free_port())
        log.info("round %d begins with %d workers: %s", number, len(names), ", ".join(names))
        for place, name in enumerate(names):
            self._workers.tell({name}, {"start": asdict(replace(this, group_rank=place))})

    def _watch(self, names: list[str]) -> dict[str, Outcome]:
        """Waits for the end of the round: of the first worker's part, or any failure, or a newcomer.

        Returns:
            How each worker's part has ended.
        """
        endings: dict[str, Outcome] = {}
        while names[0] not in endings and not any(ending.exit_code for ending in endings.values()):
            self._hear(names, endings)
            came = len(names) < self._limits.most and self._workers.here - set(names)
            if came and not endings:
                endings[min(came)] = Outcome(
                    GroupError.exit_code,
                    f"{' and '.join(sorted(came))} joined: all restart from the last step",
                    asked=True,
                )
        if not endings.keys().isdisjoint(names):
            # Most ranks leave by themselves, with better words.
            self._hear_all(names, endings, SETTLE_SECONDS)
        why = "the job is done" if is_done(endings, names[0]) else cause_of(endings).message
        self._workers.tell(set(names) - set(endings), {"stop": why})
        self._hear_all(names, endings, self._limits.grace_seconds + SETTLE_SECONDS)
        for name in set(names) - set(endings):
            self._workers.dismiss(name)
            endings[name] = Outcome(GroupError.exit_code, "is connected, but did not stop its processes")
            log.warning("%s %s: its machine or volume may hang", name, endings[name].message)
        return endings

    def _hear_all(self, names: list[str], endings: dict[str, Outcome], seconds: float) -> None:
        """Waits so long for the ends that are missing yet."""
        end = time.monotonic() + seconds
        while set(names) - set(endings) and time.monotonic() < end:
            self._hear(names, endings)

    def _hear(self, names: list[str], endings: dict[str, Outcome]) -> None:
        """Waits a moment for a worker's end, and notes it."""
        event = self._next()
        ending = event.ending if event else None
        if event and ending and (event.name in set(names) - set(endings) or ending.is_permanent):
            if ending.message == GONE:
                ending = replace(ending, message=GONE + self._heartbeats.last(event.name))
            endings[event.name] = ending

    def _next(self) -> Event | None:
        """What a worker says within a second.

        Raises:
            LeavingError: the coordinator's own worker leaves.
        """
        event = self._workers.next(1.0)
        if event and event.name == self._name and event.ending and event.ending.asked:
            raise LeavingError(event.ending)
        return event

    def _in_order(self) -> list[str]:
        """This worker first, the others by their numbers."""
        names = sorted(self._workers.here, key=lambda name: (name != self._name, len(name), name))
        return names[: self._limits.most]

    def _here(self) -> str:
        return ", ".join(self._in_order()) or "none"


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])
