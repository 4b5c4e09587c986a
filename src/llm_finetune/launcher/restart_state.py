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
        is_unfinished: nobody was left to say how the last round ended.

    Args:
        file: on the volume.
        job: another job begins from nothing.
        allowed: failures that are followed by another round.
    """

    def __init__(self, file: Path, job: str, allowed: int) -> None:
        self.allowed = allowed
        self._file = file
        self._job = job
        kept = _read(file)
        if kept.get("job") != job or kept.get("over"):
            kept = {"number": kept["number"], "begun_at": kept["number"], "failures": 0}
        self.number: int = kept["number"] - kept["begun_at"]
        self._begun_at: int = kept["begun_at"]
        self.failures: int = kept["failures"]
        self.is_unfinished = bool(kept.get("running"))

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
        """The job is over: whoever starts it again begins to count anew."""
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
    """What is kept there; a file that is broken must not keep the job from going on."""
    try:
        kept = read_state(file)
        number, begun_at, failures = (kept.get(name) for name in COUNTS)
        if is_count(number) and is_count(begun_at) and is_count(failures) and begun_at <= number <= MOST:
            return kept
        problem = "it does not hold what a leader writes"
    except FileNotFoundError:
        return dict.fromkeys(COUNTS, 0)
    except OSError as error:
        problem = str(error)
    log.warning("%s cannot be read (%s): the rounds are counted anew", file, problem)
    return dict.fromkeys(COUNTS, 0)
