"""Saves the last finished step when training is interrupted: by a signal, a failed peer or an error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import NoReturn

from llm_finetune.checkpoints.save_lock import SaveLock
from llm_finetune.distributed.failure import Failure
from llm_finetune.distributed.process_group import Group
from llm_finetune.errors import UserError
from llm_finetune.runtime import shutdown
from llm_finetune.runtime.termination_message import report_error
from llm_finetune.runtime.watchdog import force_exit


class InterruptionHandler:
    """A context manager around training: however it ends early, rank 0 first saves the last finished step.

    On a signal or a peer's failure a separate thread saves and then ends the process: the main thread may
    spend minutes in a backward pass, or hang in a collective that never returns.

    Args:
        save_lock: what saves that step.
        last_step: returns the number of the last finished step.
    """

    def __init__(self, group: Group, save_lock: SaveLock, last_step: Callable[[], int]) -> None:
        self._group, self._save_lock, self._last_step = group, save_lock, last_step
        self._handlers = ExitStack()

    def __enter__(self) -> None:
        self._handlers.enter_context(shutdown.on_signal(self._on_signal))
        self._handlers.enter_context(self._group.on_failure(self._on_peer_failure))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._save()
        finally:
            self._handlers.close()

    def _save(self) -> None:
        if self._group.ranks.is_main_process:
            self._save_lock.save()

    def _on_signal(self, number: int) -> NoReturn:
        rank = self._group.ranks.rank
        cause = shutdown.describe_signal(number)
        try:
            self._save()
            self._group.report(128 + number, f"rank {rank} was {cause}")
            report_error([f"{cause}, after step {self._last_step()}"])
        except UserError as error:
            report_error(error.problems)
        finally:
            force_exit(128 + number)

    def _on_peer_failure(self, failure: Failure) -> None:
        if not self._group.ranks.is_main_process:
            return  # nothing to save, and the failure ends the main thread too
        try:
            self._save()
            report_error([failure.message])
        except UserError as error:
            report_error([failure.message, *error.problems])
        finally:
            force_exit(failure.exit_code)
