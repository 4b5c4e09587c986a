"""What can be wrong with what the user gave, each with the exit code that says so.

Codes below 128 are permanent: the same input fails again, so nothing should restart the job.
Codes from 128 on are worth another try.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend. It is shown as it is, without a traceback.

    Args:
        problems: one line or a few; each says what was found, where, what was expected, what to do.
    """

    exit_code = 1

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class SettingsError(UserError):
    """The values files or the --set options."""

    exit_code = 2


class DataError(UserError):
    """The records, or the files they come from."""

    exit_code = 3


class ModelError(UserError):
    """The base model, its tokenizer or an adapter."""

    exit_code = 4


class OutputError(UserError):
    """What stands in the output folder, or a place that cannot be written."""

    exit_code = 5


class RestartsError(UserError):
    """A job that failed more often than it may be started again."""

    exit_code = 6


class LossError(UserError):
    """The training itself: a loss or a gradient that is no number any more."""

    exit_code = 7


class GroupError(UserError):
    """The process group: peers that are missing, late or gone."""

    exit_code = 128
