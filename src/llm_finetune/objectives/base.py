"""What a training minimizes and an evaluation reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

Batch = Mapping[str, "torch.Tensor"]


class Objective(ABC):
    """How the outputs for a batch become a loss, and which figures describe a model.

    A batch is what `data.batches.collate` returns. An objective counts it in items of its own, such as labels
    or pairs. The loss of a step is the mean over all items of all its batches and ranks, so it does not
    depend on how rows are divided into batches. A batch without items is a valid one: a rank for which no
    rows are left takes part in every collective.

    This module and those of objectives import no torch on their own import: data is prepared without it.

    Attributes:
        best_metric: the one of `metrics` that decides the best checkpoint and early stopping, by its mean.
        greater_is_better: whether a higher value of it is the better one.
    """

    best_metric: ClassVar[str] = "loss"
    greater_is_better: ClassVar[bool] = False

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Items in a batch, known before the forward pass."""

    @abstractmethod
    def metrics(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Runs the model on a batch.

        Args:
            model: a causal language model, also inside peft's or DistributedDataParallel's wrapper.

        Returns:
            Figures of every item by name, each of shape (items,) and at least fp32; the same names for every
            batch. `loss`, with its gradient, is what is minimized.
        """
