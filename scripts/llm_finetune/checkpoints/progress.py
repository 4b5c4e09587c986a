"""How far a training has come: what a checkpoint says beside weights and optimizer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_finetune.report.results import write_json

NAME = "progress.json"


@dataclass(frozen=True)
class Progress:
    """The place after a finished step.

    Rows are counted, not batches: a group of another size deals the rest of the epoch in batches of its own.

    Attributes:
        epoch: the epoch that is under way.
        row: rows of it, in its shuffled order, that finished steps have seen; all of them: what comes at
            the epoch's end is still to be done.
        loss_sum: losses of all steps since the first start, nats a label.
        unlogged_sum: of the steps since the last line of the log.
        unlogged: how many those are.
        to_evaluate: the step's evaluation is still to be done.
        to_save: and its checkpoint after that.
        is_over: no further step follows.
    """

    step: int = 0
    epoch: int = 0
    row: int = 0
    loss_sum: float = 0.0
    unlogged_sum: float = 0.0
    unlogged: int = 0
    to_evaluate: bool = False
    to_save: bool = False
    is_over: bool = False

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """The progress that a whole checkpoint holds."""
        return cls(**json.loads((folder / NAME).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        write_json(folder / NAME, asdict(self))
