"""Loss and perplexity on the validation rows."""

from __future__ import annotations

import torch

from llm_finetune.data import Split
from llm_finetune.data.batches import deal
from llm_finetune.distributed.process_group import Group
from llm_finetune.evaluation.result import ValidationLoss
from llm_finetune.kernels.precision import Precision
from llm_finetune.objectives.sft import label_log_probs
from llm_finetune.runtime.rank_progress import alive


def evaluate(
    model: torch.nn.Module, split: Split, *, batch_size: int, pad_id: int, precision: Precision, group: Group
) -> ValidationLoss:
    """Every label counts once and the same, however many ranks there are and however the batches fall."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, labels = 0.0, 0
    with torch.inference_mode(), precision.context():
        for batch in deal(split, batch_size, group.ranks, pad_id, shuffle_seed=None):
            log_probs = label_log_probs(
                model, *(batch[name].to(device) for name in ("input_ids", "position_ids", "labels"))
            )
            total -= log_probs.double().sum().item()
            labels += log_probs.numel()
            alive()
    model.train(was_training)
    all_ranks = group.sum_([total, labels])
    return ValidationLoss(loss=all_ranks[0] / all_ranks[1], tokens=int(all_ranks[1]))
