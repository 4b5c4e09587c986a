"""How a worker's part in a round ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Exit codes from here on are worth another try; the chart's restartPolicy ExitCode says the same.
FIRST_RETRY = 128


@dataclass(frozen=True)
class Outcome:
    """An exit code, and what to say of it.

    Attributes:
        exit_code: as a shell has it: 128 + n where signal n ended it.
        message: what happened, where, and what to do.
        asked: somebody asked for it (a drained node, Ctrl-C, a worker that came back): no failure.
    """

    exit_code: int
    message: str
    asked: bool = False

    @classmethod
    def from_word(cls, word: Any) -> Outcome | None:
        """An end that another process tells of; None where no process says such a thing."""
        match word:
            case {"exit_code": int(code), "message": str(message), "asked": bool(asked), **more}:
                return cls(code, message, asked) if 0 <= code < 256 and not more else None
        return None

    @property
    def is_permanent(self) -> bool:
        """Whether it would only happen again."""
        return 0 < self.exit_code < FIRST_RETRY
