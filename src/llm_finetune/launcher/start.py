"""From proved settings to running ranks: all that can be known before anything heavy loads, then the job."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import nullcontext

from llm_finetune.config import Loaded, Settings, handing_on
from llm_finetune.distributed import Ranks, available_cores, is_launched_as_rank, threads_per_process
from llm_finetune.host import allocator
from llm_finetune.launcher import launch
from llm_finetune.launcher.output_paths import resolved
from llm_finetune.launcher.preflight import check_machine, machine_warnings
from llm_finetune.pipeline.background_preparation import background_preparation
from llm_finetune.runtime import heartbeat, shutdown, standard_streams
from llm_finetune.runtime.fast_imports import loading
from llm_finetune.runtime.logging import configure
from llm_finetune.runtime.parent_death import exit_with_parent

log = logging.getLogger(__name__)


def start(loaded: Loaded, *, check: bool, fresh: bool) -> int:
    """Checks the job, or runs it: in this process, or in several that are started for it.

    Args:
        loaded: the settings, and warnings about them.
        check: settings, data and model are checked and shown; nothing is trained.
        fresh: start over even where the output folder holds this very run.

    Returns:
        The exit code.
    """
    shutdown.install_handlers()
    exit_with_parent()
    settings = resolved(loaded.settings)
    ranks = Ranks.from_environment()
    configure(settings.log_level, ranks.rank)
    processes = ranks.size if is_launched_as_rank() else settings.processes_per_worker
    check_machine(settings, processes)
    better_allocator = allocator.wanted(settings.train.optimizations.memory_allocator, os.environ)
    is_rank = is_launched_as_rank() or processes == 1
    if is_rank and not check:
        with handing_on(loaded):
            allocator.start_again_with(better_allocator)
    if not is_launched_as_rank():
        for line in (*loaded.warnings, *machine_warnings(settings)):
            log.warning("%s", line)
    if check:
        with loading():
            from llm_finetune.pipeline.dry_run import check_job
            from llm_finetune.stages import STAGES

        standard_streams.show(check_job(settings, STAGES))
        return 0
    if not is_rank:
        os.environ.update(better_allocator)
        with handing_on(loaded):
            return launch(processes, sys.argv[1:])
    log.info("memory allocator: %s", allocator.described(os.environ))
    # Read by the math libraries when they are loaded, so before torch is.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(available_cores(), ranks.local_size)))
    return _run(settings, ranks, fresh)


def _run(settings: Settings, ranks: Ranks, fresh: bool) -> int:
    with background_preparation(settings) if ranks.is_main_process else nullcontext(lambda: None) as ahead:
        with loading():
            from llm_finetune.distributed import join
            from llm_finetune.pipeline import pipeline
            from llm_finetune.stages import STAGES

        deadline, grace = settings.rendezvous_timeout_minutes * 60, settings.shutdown_grace_seconds
        stall = settings.stall_timeout_minutes * 60
        joined = join(settings.train.ddp_backend, ranks, deadline, grace_seconds=grace, stall_seconds=stall)
        with heartbeat.rank_heartbeat(ranks):
            pipeline.run(settings, STAGES, joined, ahead, fresh=fresh)
    return 0
