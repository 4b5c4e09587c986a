"""Starts several processes of one command on this machine, by torch's elastic agent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.distributed.cores import available_cores, share
from llm_finetune.distributed.ranks import launched
from llm_finetune.errors import GroupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

LAST_LINES = 20


def launch(
    processes: int,
    argv: Sequence[str],
    *,
    entry: Sequence[str] = ("-m", "llm_finetune.cli"),
    log_dir: Path | None = None,
) -> int:
    """Runs `python *entry *argv` as `processes` ranks on this machine and waits for them.

    Rank 0 has the terminal; what the others say goes to files, whose ends are shown where a rank fails. Each
    has its share of the cores as OMP_NUM_THREADS, unless the user set it. A signal ends all of them.

    Args:
        log_dir: keeps the other ranks' files; without it they last as long as the run.

    Returns:
        The exit code of the rank that failed first (128 + n where signal n ended it), or 0.

    Raises:
        GroupError: if this process is itself a rank of a group.
    """
    if launched():
        raise GroupError("RANK or WORLD_SIZE is set: this process is a rank already and starts no others.")
    threads = share(available_cores(), processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Each round gets a store of its own; a shared one carries the keys of the last round into the next.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # torch's C++ would add a stack of its own to each message about a lost peer.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if log_dir is not None:
        return _run(processes, [*entry, *argv], log_dir)
    with tempfile.TemporaryDirectory(prefix="llm-finetune-ranks-") as folder:
        return _run(processes, [*entry, *argv], Path(folder))


def _run(processes: int, arguments: Sequence[str], logs: Path) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, processes), Std.ALL)),
    )
    # The agent expands ${local_rank} and $$ in arguments, where a prompt's dollar must stay a dollar.
    escaped = [argument.replace("$", "$$") for argument in arguments]
    try:
        with _quiet_agent():
            elastic_launch(config, sys.executable)(*escaped)
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as failed:
        rank, failure = _first(failed.failures)
        _show_others(processes, logs)
        _explain_signal(rank, failure.exitcode)
        return _shell_code(failure.exitcode)
    return 0


@contextmanager
def _quiet_agent() -> Iterator[None]:
    """The agent logs each failure with a traceback of its own; the rank has said what was wrong."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _first(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The failure that caused the others: those are ended by the agent, or leave for a lost peer."""
    consequences = {-signal.SIGTERM, GroupError.exit_code}
    return min(failures.items(), key=lambda item: (item[1].exitcode in consequences, item[1].timestamp))


def _shell_code(exit_code: int) -> int:
    return 128 - exit_code if exit_code < 0 else exit_code


def _show_others(processes: int, logs: Path) -> None:
    """Prints what only the files have: the last complaints of the ranks other than 0."""
    for rank in range(1, processes):
        for file in logs.glob(f"**/{rank}/stderr.log"):
            for line in file.read_text(errors="replace").splitlines()[-LAST_LINES:]:
                print(f"[rank {rank}] {line}", file=sys.stderr)


def _explain_signal(rank: int, exit_code: int) -> None:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if exit_code == -signal.SIGKILL else ""
        print(f"rank {rank} was ended by {name}{hint}", file=sys.stderr)
