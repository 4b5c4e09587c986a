"""How far a training has come: what a checkpoint says beside weights and optimizer."""

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
        """The progress that a whole checkpoint holds. Raises ValueError where it is none."""
        return _READER.validate_json((folder / NAME).read_bytes())

    def write(self, folder: Path) -> None:
        write_json(folder / NAME, asdict(self))


_READER = TypeAdapter(Progress)
