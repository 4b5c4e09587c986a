"""The result of training beside the model: its figures and its curve."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, RootModel

from llm_finetune.storage.result import Result


class TrainingResult(Result):
    """The figures of a training run.

    Attributes:
        train_loss: mean over all steps, nats per label.
        steps: optimizer steps since the first start of the job.
        sequences_per_step: rows of a step, over all ranks.
        seconds: since the last start, including evaluations and checkpoints.
        tokens_per_second: tokens of records (without padding), over all ranks.
        peak_memory_bytes: peak resident set size of the largest rank.
    """

    file_name = "train_results.json"

    train_loss: float
    steps: int
    sequences_per_step: int | None = None
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


class CurvePoint(BaseModel):
    """A point of the curves: the figures of a step, or of an evaluation after it (`eval_loss`)."""

    model_config = ConfigDict(strict=True, frozen=True)

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eval_loss: float | None = None


class TrainingHistory(Result, RootModel[list[CurvePoint]]):
    """The curves of a training, in the order of its steps."""

    file_name = "train_history.json"
