"""Next-token prediction on the labelled tokens.

The output head, a large part of a small model's work, runs on the positions that have a label and on no
other: prompts and padding never reach it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100


def label_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities, in fp32 and with their gradient, of the labels; the mean is the caller's.

    Args:
        model: a causal language model, also inside peft's or DistributedDataParallel's wrapper.
        input_ids: token ids, shape (rows, positions).
        position_ids: positions, which start again at 0 with each record of a row; same shape.
        labels: the token ids where trained, `IGNORED` elsewhere; same shape. A record's first token has no
            label, since nothing before it may predict it.

    Returns:
        One value a label, row by row, shape (labels,).
    """
    predicting = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][predicting]
    with _head_only_at(_inner(model), predicting):
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
    return -cross_entropy(logits.float(), targets, reduction="none")


@contextmanager
def _head_only_at(model: Any, predicting: torch.Tensor) -> Iterator[None]:
    """Lets the head see hidden states of shape (labels, width) instead of (rows, positions, width)."""

    def select(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return inputs[0][:, :-1][predicting]

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _inner(model: Any) -> Any:
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
