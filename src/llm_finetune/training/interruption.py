"""Leaving a training before its end: for a signal, for a peer that failed, for an error of its own."""

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
from llm_finetune.runtime.termination_message import say
from llm_finetune.runtime.watchdog import force_exit


class InterruptionHandler:
    """Around the training: however it ends early, rank 0 keeps the last finished step first.

    For a signal or a peer's failure this happens in a thread of its own, which then ends the process: the
    main thread may be in a backward pass for minutes, or in a collective that never comes back.

    Args:
        step: tells the last finished step.
    """

    def __init__(self, group: Group, keeper: SaveLock, step: Callable[[], int]) -> None:
        self._group, self._keeper, self._step = group, keeper, step
        self._open = ExitStack()

    def __enter__(self) -> None:
        self._open.enter_context(shutdown.attended(self._for_signal))
        self._open.enter_context(self._group.failure_answered_by(self._for_peer))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._keep()
        finally:
            self._open.close()

    def _keep(self) -> None:
        if self._group.ranks.is_main_process:
            self._keeper.keep()

    def _for_signal(self, number: int) -> NoReturn:
        rank = self._group.ranks.rank
        told = shutdown.told(number)
        try:
            self._keep()
            self._group.report(128 + number, f"rank {rank} was {told}")
            say([f"{told}, after step {self._step()}"])
        except UserError as error:
            say(error.problems)
        finally:
            force_exit(128 + number)

    def _for_peer(self, failure: Failure) -> None:
        if not self._group.ranks.is_main_process:
            return  # its main thread hears of it too, and nothing is to be kept
        try:
            self._keep()
            say([failure.message])
        except UserError as error:
            say([failure.message, *error.problems])
        finally:
            force_exit(failure.exit_code)
