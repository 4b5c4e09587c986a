"""The job's rounds, counted on the volume: a new pod goes on counting where the last one stopped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from llm_finetune.launcher.round import MOST
from llm_finetune.runtime.outcome import Outcome
from llm_finetune.runtime.state_file import is_count, read_state
from llm_finetune.storage.json_files import as_text, save_text

COUNTS = ("number", "begun_at", "failures")

log = logging.getLogger(__name__)


class RestartState:
    """How many rounds there were, and how many of them failed.

    Attributes:
        is_unfinished: the last round ended without a report.

    Args:
        file: on the volume.
        job: another job begins from nothing.
        allowed: failures that are followed by another round.
    """

    def __init__(self, file: Path, job: str, allowed: int) -> None:
        self.allowed = allowed
        self._file = file
        self._job = job
        state = _read(file)
        if state.get("job") != job or state.get("over"):
            state = {"number": state["number"], "begun_at": state["number"], "failures": 0}
        self.number: int = state["number"] - state["begun_at"]
        self._begun_at: int = state["begun_at"]
        self.failures: int = state["failures"]
        self.is_unfinished = bool(state.get("running"))

    def begin(self) -> int:
        """Writes down that a round begins; returns its number, which its logs bear."""
        self.number += 1
        self._write(running=True)
        return self._begun_at + self.number

    def count(self, ending: Outcome) -> int:
        """Writes down why no round runs; returns the failures so far. What was asked for is none."""
        self.failures += not ending.asked
        self._write(running=False, last=ending.message)
        return self.failures

    def finish(self) -> None:
        """The job is over: a new start begins to count at 0."""
        self._write(running=False, over=True)

    def _write(self, **more: object) -> None:
        content = {
            "job": self._job,
            "number": self._begun_at + self.number,
            "begun_at": self._begun_at,
            "failures": self.failures,
        }
        save_text(self._file, as_text({**content, **more}))


def _read(file: Path) -> dict[str, Any]:
    """The stored state; a broken file must not keep the job from continuing."""
    try:
        state = read_state(file)
        number, begun_at, failures = (state.get(name) for name in COUNTS)
        if is_count(number) and is_count(begun_at) and is_count(failures) and begun_at <= number <= MOST:
            return state
        problem = "it does not hold what a coordinator writes"
    except FileNotFoundError:
        return dict.fromkeys(COUNTS, 0)
    except OSError as error:
        problem = str(error)
    log.warning("%s cannot be read (%s): restarts are counted from 0", file, problem)
    return dict.fromkeys(COUNTS, 0)
