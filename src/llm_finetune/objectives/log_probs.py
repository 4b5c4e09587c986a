"""Log-probabilities of the labeled tokens, from which objectives make their losses.

The output head, a large part of a small model's work, runs on the positions that have a label and on no
other: prompts and padding never reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.kernels.training import attention
from llm_finetune.kernels.training.output_head import FusedLinearCrossEntropyHead
from llm_finetune.kernels.training.segments import flatten


def label_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities, at least in fp32 and with their gradient, of the labels; the mean is the caller's.

    Args:
        model: a causal language model, also inside peft's or DistributedDataParallel's wrapper.
        input_ids: token ids, shape (rows, positions).
        position_ids: positions, which start again at 0 with each record of a row; same shape.
        labels: the token ids where trained, `IGNORE_INDEX` elsewhere; same shape. A record's first token has
            no label, since nothing before it may predict it.

    Returns:
        One value a label, row by row, shape (labels,).
    """
    inner = _inner(model)
    how: dict[str, Any] = {}
    if inner.config._attn_implementation == attention.NAME:
        flat = flatten(input_ids, position_ids, labels, IGNORE_INDEX)
        input_ids, position_ids, labels = flat.input_ids, flat.position_ids, flat.labels
        # A mask of four dimensions is passed on as it is: none is built, and none is looked at.
        how = {"segments": flat.segments, "attention_mask": input_ids.new_zeros(1, 1, 1, 1)}
    predicting = labels[:, 1:] != IGNORE_INDEX
    targets = labels[:, 1:][predicting]
    head = inner.get_output_embeddings()
    with _head_only_at(head, predicting, targets):
        logits: torch.Tensor = model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, **how
        ).logits
    if isinstance(head, FusedLinearCrossEntropyHead):
        return logits.squeeze(1)
    return -cross_entropy(logits.float(), targets, reduction="none")


@contextmanager
def _head_only_at(head: Any, predicting: torch.Tensor, targets: torch.Tensor) -> Iterator[None]:
    """Lets the head see hidden states of shape (labels, width) instead of (rows, positions, width).

    A `FusedLinearCrossEntropyHead` gives log-probabilities of the targets, shape (labels, 1), where another
    gives logits.
    """

    def select(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return inputs[0][:, :-1][predicting]

    handle = head.register_forward_pre_hook(select)
    if isinstance(head, FusedLinearCrossEntropyHead):
        head.targets = targets
    try:
        yield
    finally:
        handle.remove()
        if isinstance(head, FusedLinearCrossEntropyHead):
            head.targets = None


def _inner(model: Any) -> Any:
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
