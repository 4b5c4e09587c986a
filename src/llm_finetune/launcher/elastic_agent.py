"""One round on this machine: torch's elastic agent starts the ranks, watches them and stops them."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from llm_finetune.launcher.failure_cause import cause_of
from llm_finetune.launcher.rank_logs import RankLogs
from llm_finetune.launcher.round import Round
from llm_finetune.runtime.outcome import Outcome
from llm_finetune.runtime.parent_death import mark_children
from llm_finetune.runtime.signals import name_of

PEERS_FIRST = 1.5  # they say better what it means

log = logging.getLogger(__name__)


def run_round(
    this: Round,
    processes: int,
    command: Sequence[str],
    logs: RankLogs,
    *,
    grace_seconds: float,
    stall_seconds: float = math.inf,
    interrupt: Callable[[], None] = lambda: None,
) -> Outcome:
    """Runs `python *command` as this machine's ranks of one round, until all are done or one has failed.

    Args:
        processes: ranks on this machine, as many as on all others.
        grace_seconds: how long ranks have from SIGTERM to SIGKILL.
        stall_seconds: how long a rank may be stopped (SIGSTOP), where no peer hears nothing of it.
        interrupt: called about ten times a second; what it raises stops the ranks and comes out again.
    """
    # The agent reads these. The first: all machines have equally many ranks, so no store is asked for their
    # numbers. The second: signals are the launcher's, which knows what to say of them.
    os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""
    # torch's C++ would add a stack of its own to each message about a lost peer.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # The agent expands ${local_rank} and $$ in arguments, where a prompt's dollar must stay a dollar.
    escaped = tuple(argument.replace("$", "$$") for argument in command)
    spec = WorkerSpec(
        role="",
        local_world_size=processes,
        rdzv_handler=_Formed(this, interrupt),
        entrypoint=sys.executable,
        args=escaped,
        max_restarts=0,
    )
    with _quiet(), mark_children():
        result = _Agent(spec, logs, grace_seconds, PEERS_FIRST * stall_seconds).run()
    if not result.is_failed():
        return Outcome(0, "done")
    return _ending(result, logs)


class _Agent(LocalElasticAgent):
    """torch's agent with the pod's grace period, and without a barrier: the ranks leave together."""

    def __init__(
        self, spec: WorkerSpec, logs: RankLogs, grace_seconds: float, stopped_seconds: float
    ) -> None:
        # No prefix before a line: the ranks' own log says which rank speaks.
        super().__init__(spec, logs, log_line_prefix_template="${role_name}")
        self._grace_seconds = round(grace_seconds)
        self._stopped_seconds = stopped_seconds
        self._stopped_since: dict[int, float] = {}

    def _monitor_workers(self, worker_group: Any) -> RunResult:
        """The round as it is; a rank that was stopped, and is not continued, is ended."""
        now = time.monotonic()
        for rank in self._pcontext.pids().values() if self._pcontext else ():
            if _is_stopped(rank):
                since = self._stopped_since.setdefault(rank, now)
                if now - since > self._stopped_seconds:
                    line = "process %d has been stopped (SIGSTOP) for %.1f min; killing it"
                    log.error(line, rank, (now - since) / 60)
                    os.kill(rank, signal.SIGKILL)
            else:
                self._stopped_since.pop(rank, None)
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, *_: Any, **__: Any) -> None:
        if self._pcontext is None:
            return
        try:
            for rank in self._pcontext.pids().values():
                with suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGCONT)  # one that was stopped would not hear the next
            self._pcontext.close(death_sig, self._grace_seconds)
        except BaseException:  # a second signal: at once
            self._pcontext.close(signal.SIGKILL, self._grace_seconds)
            raise

    def _exit_barrier(self) -> None:
        pass


def _is_stopped(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):  # it has ended
        return False


class _Formed(RendezvousHandler):
    """A round that is formed already, in the form that the agent expects."""

    def __init__(self, this: Round, interrupt: Callable[[], None]) -> None:
        self._round = this
        self._interrupt = interrupt

    def get_backend(self) -> str:
        return "llm-finetune"

    def get_run_id(self) -> str:
        return f"round-{self._round.number}"

    def next_rendezvous(self) -> RendezvousInfo:
        this = self._round
        place = RendezvousStoreInfo(this.master_addr, this.master_port)
        return RendezvousInfo(HashStore(), this.group_rank, this.group_size, place)

    def num_nodes_waiting(self) -> int:
        self._interrupt()
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True


@contextmanager
def _quiet() -> Iterator[None]:
    """The agent logs each failure with a traceback of its own; the rank has logged what was wrong."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _ending(result: RunResult, logs: RankLogs) -> Outcome:
    """The failure that caused the others."""
    in_time = sorted(result.failures.items(), key=lambda item: item[1].timestamp)
    return cause_of({f"rank {rank}": _ended(failure, logs) for rank, failure in in_time})


def _ended(failure: ProcessFailure, logs: RankLogs) -> Outcome:
    code = failure.exitcode
    if code < 0:
        return Outcome(128 - code, f"ended by {name_of(-code)}")
    if os.path.isfile(failure.error_file):
        return Outcome(code, str(failure.message))
    return Outcome(code, logs.last_line(failure.local_rank) or f"left with exit code {code}")
