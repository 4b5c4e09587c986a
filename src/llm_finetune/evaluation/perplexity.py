"""Loss and perplexity on the validation rows."""

from __future__ import annotations

from collections import defaultdict

import torch

from llm_finetune.data import Split
from llm_finetune.data.batches import make_dataloader
from llm_finetune.distributed.process_group import Group
from llm_finetune.evaluation.result import ValidationLoss
from llm_finetune.kernels.precision import Precision
from llm_finetune.objectives.base import Objective
from llm_finetune.runtime.rank_progress import alive


def evaluate(
    model: torch.nn.Module,
    split: Split,
    objective: Objective,
    *,
    batch_size: int,
    pad_id: int,
    precision: Precision,
    group: Group,
) -> ValidationLoss:
    """Every item counts once and the same, however many ranks there are and however the batches fall."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    totals: dict[str, float] = defaultdict(float)
    items = 0
    with torch.inference_mode(), precision.context():
        for batch in make_dataloader(split, batch_size, group.ranks, pad_id, shuffle_seed=None):
            found = objective.metrics(model, {name: part.to(device) for name, part in batch.items()})
            for name, values in found.items():
                totals[name] += values.double().sum().item()
            items += len(found["loss"])
            alive()
    model.train(was_training)
    *sums, count = group.all_reduce_sum([*totals.values(), items])
    means = {name: total / count for name, total in zip(totals, sums, strict=True)}
    return ValidationLoss(loss=means.pop("loss"), tokens=int(count), metrics=means)
