"""Operations shared by attention, output head and LoRA: native kernels where compiled, else PyTorch."""

from __future__ import annotations

import torch

from llm_finetune.kernels.training.bindings import kernels, takes


def causal_softmax_(
    scores: torch.Tensor, first_query: int, first_key: int, window: int | None, scale: float
) -> torch.Tensor:
    """In place: softmax of scale x scores over the keys that each query sees; 0 for the others.

    Args:
        scores: shape (matrices, queries, keys).
        first_query: place of the first query in its record; `first_key` the same.
        window: a query sees so many keys at most, its own among them.
    """
    if (native := kernels()) and takes(scores):
        native.run("softmax", scores, *scores.shape, first_query, first_key, window or 0, scale)
        return scores
    query_at = torch.arange(first_query, first_query + scores.shape[1]).unsqueeze(1)
    key_at = torch.arange(first_key, first_key + scores.shape[2])
    hidden = key_at > query_at
    if window:
        hidden |= key_at <= query_at - window
    mask = torch.zeros(hidden.shape, dtype=scores.dtype).masked_fill_(hidden, float("-inf"))
    return scores.copy_(torch.softmax(scores.mul_(scale).add_(mask), -1))


def softmax_grad_(probabilities: torch.Tensor, grad: torch.Tensor, scale: float) -> torch.Tensor:
    """In place in grad: the gradient of the scores, from that of the probabilities; shapes as above."""
    if (native := kernels()) and takes(probabilities, grad):
        keys = grad.shape[-1]
        native.run("softmax_grad", probabilities, grad, grad.numel() // keys, keys, scale)
        return grad
    dot = (probabilities * grad).sum(-1, keepdim=True, dtype=torch.promote_types(grad.dtype, torch.float32))
    return grad.copy_(scale * probabilities * (grad - dot))


def label_log_probs_(logits: torch.Tensor, targets: torch.Tensor, grad: bool) -> torch.Tensor:
    """Log-probabilities of the targets, at least fp32; with `grad`, their gradient takes the logits' place.

    Args:
        logits: shape (labels, vocabulary), used up.
        targets: int64, shape (labels,).
    """
    if (native := kernels()) and takes(logits):
        result = torch.empty(len(logits), dtype=torch.float32)
        native.run("label_log_probs", logits, targets, result, *logits.shape, grad)
        return result
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probs = torch.log_softmax(wide, -1)
    index = targets.unsqueeze(1)
    result = log_probs.gather(1, index).squeeze(1)
    if grad:
        log_probs.exp_().neg_()
        logits.copy_(log_probs.scatter_add_(1, index, torch.ones_like(index, dtype=log_probs.dtype)))
    return result


def dropped(x: torch.Tensor, rate: float, seed: int) -> torch.Tensor:
    """Dropout of x; the same seed drops the same elements again.

    Args:
        seed: from 0 to 2^32 - 1.
    """
    if (native := kernels()) and takes(x):
        result = torch.empty_like(x)
        native.run("dropout", x, result, x.numel(), seed, round(rate * 2**32), 1 / (1 - rate))
        return result
    generator = torch.Generator().manual_seed(seed)
    mask = torch.empty(x.shape, dtype=x.dtype).bernoulli_(1 - rate, generator=generator)
    return x * mask.mul_(1 / (1 - rate))
