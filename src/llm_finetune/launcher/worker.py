"""The container's command: all that a worker pod does around its ranks, from waiting to its exit code."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from llm_finetune.config import Settings, load_merged
from llm_finetune.distributed import available_cores, threads_per_process
from llm_finetune.distributed.job_secret import job_secret, say_where_there_is_none
from llm_finetune.errors import SettingsError, UserError
from llm_finetune.launcher import ld_preload
from llm_finetune.launcher.coordinator import Coordinator, WorkerLimits
from llm_finetune.launcher.coordinator_client import CoordinatorClient, StopError
from llm_finetune.launcher.coordinator_server import CoordinatorServer
from llm_finetune.launcher.environment import WorkerIdentity
from llm_finetune.launcher.output_paths import check_written, resolved
from llm_finetune.launcher.pod_heartbeats import PodHeartbeats
from llm_finetune.launcher.preflight import check_machine
from llm_finetune.launcher.restart_state import RestartState
from llm_finetune.launcher.round import Round
from llm_finetune.launcher.upload_wait import Copying, await_all, awaited_on
from llm_finetune.runtime.logging import configure
from llm_finetune.runtime.outcome import Outcome
from llm_finetune.runtime.signals import SignaledError, name_of, raised_signals
from llm_finetune.runtime.termination_message import leave_to_kubernetes
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing
from llm_finetune.storage.stale_files import remove_abandoned

STATE = ".launcher"  # what outlives a pod, within outputDir
LOGS = "logs"
NOTE_SECONDS = 5.0  # for the coordinator to write down that its own worker leaves, or to say that all is done

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the chart tells a worker beside the settings."""

    settings_file: Path
    volume: Path
    wait_for_workers: int
    upload_timeout_minutes: float
    data_pod: str
    namespace: str
    grace_seconds: float


def work(options: Options) -> int:
    """Runs this worker's part of the job, and writes the termination message for Kubernetes.

    Returns:
        The exit code: below 128 it would only happen again, from 128 on the pod is worth another start.
    """
    with raised_signals():
        try:
            ending = _work(options)
        except (Exception, SignaledError) as error:
            ending = _ending_by(error)
        if ending.exit_code:
            log.error("%s", ending.message)
            leave_to_kubernetes(ending)
        return ending.exit_code


def _work(options: Options) -> Outcome:
    configure("info", rank=0)
    settings = load_merged(options.settings_file).settings
    configure(settings.log_level, rank=0)
    place = WorkerIdentity.from_environment(options.wait_for_workers)
    check_written(settings, options.volume)
    settings = resolved(settings)
    _check(settings, options)
    if options.wait_for_workers > 1:
        say_where_there_is_none()
    digest = hashlib.sha256(options.settings_file.read_bytes()).hexdigest()
    heartbeats = PodHeartbeats(Path(settings.train.output_dir) / STATE)
    coordinator = _coordinator(settings, options, place, digest, heartbeats) if place.leads else None
    patience, stall = settings.rendezvous_timeout_minutes * 60, settings.stall_timeout_minutes * 60
    member = CoordinatorClient(place.name, place.endpoint, digest, patience, stall)
    ld_preload.drop_missing()
    cores, processes = available_cores(), settings.processes_per_worker
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(cores, processes)))
    log.info("%s: %d cores, %s threads for each of %d processes", place.name, cores, threads, processes)
    wanted, copying = awaited_on(options.volume, settings), Copying(options.data_pod, options.namespace)
    try:
        await_all(wanted, options.upload_timeout_minutes, copying)
        while isinstance(word := member.next(), Round):
            member.report(_part_in(word, member, heartbeats, settings, options))
        ending = word
    except (Exception, SignaledError) as error:
        ending = _ending_by(error)
        member.report(ending)
    if coordinator is not None:
        coordinator.wait(options.grace_seconds if ending.is_permanent else NOTE_SECONDS)
    return ending


def _ending_by(error: BaseException) -> Outcome:
    """What ends this worker, in words."""
    if isinstance(error, SignaledError):
        return Outcome(error.exit_code, f"stopped by {error}; the job resumes after a restart", asked=True)
    if isinstance(error, UserError):
        return Outcome(error.exit_code, "\n".join(error.problems))
    log.error("internal error in the launcher", exc_info=error)
    return Outcome(1, f"internal error in the launcher: {type(error).__name__}: {error}")


def _part_in(
    this: Round, member: CoordinatorClient, heartbeats: PodHeartbeats, settings: Settings, options: Options
) -> Outcome:
    """Runs this worker's ranks of a round."""
    from llm_finetune.launcher.elastic_agent import run_round
    from llm_finetune.launcher.rank_logs import RankLogs

    command = [settings.script, "run", "--settings", str(options.settings_file)]
    folder = Path(settings.train.output_dir) / LOGS / f"round-{this.number}"
    try:
        with heartbeats.of_ranks(member.name):
            ending = run_round(
                this,
                settings.processes_per_worker,
                command,
                RankLogs(folder, terminal=False),
                grace_seconds=options.grace_seconds,
                stall_seconds=settings.stall_timeout_minutes * 60,
                interrupt=member.check,
            )
            if ending.exit_code == 128 + signal.SIGKILL:
                ending = replace(ending, message=ending.message + heartbeats.last(member.name))
        return ending
    except StopError as stop:
        return Outcome(128 + signal.SIGTERM, f"stopped: {stop}")


def was_killed(number: int) -> None:
    """Writes the termination message of a launcher that was killed."""
    name = name_of(number)
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    leave_to_kubernetes(Outcome(128 + number, f"the launcher was killed by {name}{hint}"))


def _check(settings: Settings, options: Options) -> None:
    """What can be known before anything heavy loads and before a peer is asked."""
    check_machine(settings, options.wait_for_workers * settings.processes_per_worker)
    job_secret()
    if not Path(settings.script).is_file():
        raise SettingsError(
            f"distributed.script: there is no file {settings.script} in this image; "
            "use the project's image, or name the script that yours has"
        )
    for name in (STATE, LOGS):
        folder = Path(settings.train.output_dir) / name
        with writing(folder):
            atomic.own_folder(folder)
    remove_abandoned((Path(settings.train.output_dir) / STATE).glob(f".*.{atomic.PARTIAL}"))


def _coordinator(
    settings: Settings, options: Options, place: WorkerIdentity, digest: str, heartbeats: PodHeartbeats
) -> Coordinator:
    limits = WorkerLimits(
        wanted=options.wait_for_workers,
        least=min(place.least, options.wait_for_workers),
        most=max(place.most, options.wait_for_workers),
        patience_seconds=settings.rendezvous_timeout_minutes * 60,
        lost_seconds=settings.lost_worker_timeout_minutes * 60,
        grace_seconds=options.grace_seconds,
    )
    restarts = RestartState(
        Path(settings.train.output_dir) / STATE / "rounds.json", place.endpoint[0], place.max_restarts
    )
    return Coordinator(place.name, CoordinatorServer(place.endpoint[1], digest), limits, restarts, heartbeats)
