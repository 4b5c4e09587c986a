"""Errors that the user can fix, each class with its exit code.

Codes below 128 are permanent: the same input fails again, so nothing should restart the job.
Codes from 128 on are worth a retry.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix. Its message is shown without a traceback.

    Args:
        problems: one line or a few; each says what was found, where, what was expected and what to do.
    """

    exit_code = 1

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class SettingsError(UserError):
    """The values files or the --set options are invalid."""

    exit_code = 2


class DataError(UserError):
    """The records, or the files that they come from, are invalid."""

    exit_code = 3


class ModelError(UserError):
    """The base model, its tokenizer or an adapter cannot be used."""

    exit_code = 4


class OutputError(UserError):
    """The output folder holds something else, or a path cannot be written."""

    exit_code = 5


class RestartsError(UserError):
    """The job failed more often than its restart limit allows."""

    exit_code = 6


class LossError(UserError):
    """Training diverged: the loss or a gradient is NaN or infinite."""

    exit_code = 7


class GroupError(UserError):
    """The process group failed: peers are missing, late or unreachable."""

    exit_code = 128
