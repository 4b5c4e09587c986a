"""Progress of the training: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llm_finetune.runtime.logging import entry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """What is logged at one logging step.

    Attributes:
        tokens_per_second: tokens of records per second, over all ranks, since the last report.
        seconds_left: estimated from the pace so far.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        return (
            f"step {self.step}/{self.steps}  loss {self.loss:.4f}  lr {self.learning_rate:.3g}  "
            f"{self.tokens_per_second:,.0f} tokens/s  {clock(self.seconds_left)} left"
        )


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Pace:
    """Measures tokens per second and estimates the time left."""

    def __init__(self, step: int, steps: int) -> None:
        self.first_step, self.steps = step, steps
        self.started = self.reported = time.perf_counter()
        self.tokens = 0

    def tokens_per_second(self, tokens: int) -> float:
        """The rate since the last call.

        Args:
            tokens: processed since the start.
        """
        now = time.perf_counter()
        rate = (tokens - self.tokens) / max(now - self.reported, 1e-9)
        self.reported, self.tokens = now, tokens
        return rate

    def seconds_left(self, step: int) -> float:
        """Time for the steps after `step`, at the mean pace of those before it."""
        per_step = (time.perf_counter() - self.started) / max(step - self.first_step, 1)
        return per_step * (self.steps - step)


class Display:
    """Shows the reports of rank 0: as a progress bar on a terminal, otherwise one log line each."""

    def __init__(self, visible: bool) -> None:
        self.visible = visible
        self.bar: Progress | None = None

    def start(self, step: int, steps: int) -> None:
        if self.visible and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.bar.start()
            self.bar.add_task("", total=steps, completed=step)

    def step(self, step: int) -> None:
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=step)

    def report(self, report: StepReport) -> None:
        if self.bar:
            text = f"loss {report.loss:.4f}  {report.tokens_per_second:,.0f} tokens/s"
            self.bar.update(self.bar.task_ids[0], description=text)
        elif self.visible:
            log.info("%s", report)

    def note(self, text: str) -> None:
        """Prints a permanent line, above the bar where there is one."""
        if self.bar:
            self.bar.console.print(entry(text), markup=False, highlight=False)
        elif self.visible:
            log.info("%s", text)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None
