"""Supervised fine-tuning: predict each token that is trained on from those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.objectives.base import Batch, Objective

if TYPE_CHECKING:
    import torch


class Sft(Objective):
    """Cross-entropy of the labels, in nats; an item is a label."""

    def count(self, batch: Batch) -> int:
        """See `Objective`."""
        return int((batch["labels"] != IGNORE_INDEX).sum())

    def metrics(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """See `Objective`."""
        from llm_finetune.objectives.log_probs import label_log_probs

        return {"loss": -label_log_probs(model, batch["input_ids"], batch["position_ids"], batch["labels"])}
