"""The progress of training: what a checkpoint stores beside weights, optimizer and the Trainer's state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, with_config

from llm_finetune.storage.json_files import write_json

NAME = "progress.json"

Count = Annotated[int, Field(ge=0)]
Sum = Annotated[float, Field(allow_inf_nan=False)]


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class Progress:
    """The position after a finished step.

    Counts rows, not batches: a group of another size splits the rest of the epoch into batches of its own.

    Attributes:
        epoch: the current epoch, from 0.
        row: number of its rows, in shuffled order, that finished steps have seen; if all, the work at the
            end of the epoch is still due.
        loss_sum: sum of the losses (nats per label) of all steps since the first start.
        unlogged_sum: the same for the steps since the last log line.
        unlogged: number of those steps.
        to_evaluate: an evaluation is due.
        to_save: a checkpoint is due after that.
        is_over: no step follows.
    """

    step: Count = 0
    epoch: Count = 0
    row: Count = 0
    loss_sum: Sum = 0.0
    unlogged_sum: Sum = 0.0
    unlogged: Count = 0
    to_evaluate: bool = False
    to_save: bool = False
    is_over: bool = False

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Reads the progress from a checkpoint. Raises ValueError where it is invalid."""
        return _READER.validate_json((folder / NAME).read_bytes())

    def write(self, folder: Path) -> None:
        write_json(folder / NAME, asdict(self))


_READER = TypeAdapter(Progress)
