"""Several processes of one command on this machine: `llm-finetune run` with processesPerWorker above 1."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llm_finetune.distributed import available_cores, is_launched_as_rank, threads_per_process
from llm_finetune.distributed.job_secret import new_secret
from llm_finetune.errors import GroupError
from llm_finetune.host.interpreter import module
from llm_finetune.launcher.round import Round
from llm_finetune.runtime.logging import tell
from llm_finetune.runtime.signals import SignaledError, raised_signals

LAST_LINES = 20
GRACE_SECONDS = 120.0
ENTRY = tuple(module("llm_finetune.cli.main"))


def launch(processes: int, argv: Sequence[str], *, entry: Sequence[str] = ENTRY) -> int:
    """Runs `python *entry *argv` as `processes` ranks on this machine and waits for them.

    Rank 0 has the terminal; what the others say is shown where a rank fails. Each has its share of the cores
    as OMP_NUM_THREADS, unless the user set it. A signal stops all of them, a second one at once.

    Returns:
        The exit code of the rank that failed first (128 + n where signal n ended it), or 0.

    Raises:
        GroupError: if this process is itself a rank of a group.
    """
    if is_launched_as_rank():
        raise GroupError("RANK or WORLD_SIZE is set: this process is a rank already and starts no others.")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(available_cores(), processes)))
    from llm_finetune.launcher.elastic_agent import run_round
    from llm_finetune.launcher.rank_logs import RankLogs

    alone = Round(1, 0, 1, "127.0.0.1", _free_port())
    with tempfile.TemporaryDirectory(prefix="llm-finetune-ranks-") as folder, raised_signals():
        logs = RankLogs(Path(folder), terminal=True)
        try:
            with new_secret(Path(folder)):
                ending = run_round(alone, processes, [*entry, *argv], logs, grace_seconds=GRACE_SECONDS)
        except SignaledError as stop:
            return stop.exit_code
        if ending.exit_code:
            for rank in range(1, processes):
                for line in logs.last_lines(rank, LAST_LINES):
                    tell(f"[rank {rank}] {line}")
            if ending.exit_code > GroupError.exit_code:
                hint = " (out of memory?)" if ending.exit_code == 128 + signal.SIGKILL else ""
                tell(ending.message + hint)
        return ending.exit_code


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
