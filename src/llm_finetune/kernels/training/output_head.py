"""Fused linear cross-entropy: the output head on labels only, in chunks, without the logits of a whole batch.

For a row h of hidden states and its label y, with W the head's weights and e_y the label's unit vector:

    log p(y) = (W h)_y - log sum exp(W h),    d log p(y) / dh = W^T (e_y - softmax(W h))

The backward pass only scales this gradient by a factor for each label, so it is computed in the forward pass,
while the chunk's logits are in the cache. Trained weights get their gradient in the backward pass, from the
saved gradient of the logits, or from recomputed logits where saving them would take too much memory. Liger
Kernel (Hsu et al. 2024, arXiv 2410.10989) and Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009) do
the same on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

from llm_finetune.kernels.training.ops import label_log_probs_

CHUNK_BYTES = 16 << 20
"""Size of a chunk's logits: at most half of a processor's last-level cache."""
MAX_SAVED_BYTES = 256 << 20
"""Largest size of the logits' gradient that is saved for the gradient of trained weights."""


class FusedLinearCrossEntropyHead(torch.nn.Linear):
    """An output head that returns log-probabilities of `targets` instead of logits while they are set.

    Attributes:
        targets: int64, shape (labels,), for hidden states of shape (labels, width). The output has shape
            (labels, 1) then, at least fp32; the mean is the caller's.
    """

    targets: torch.Tensor | None = None

    @staticmethod
    def of(head: torch.nn.Linear) -> None:
        """Change the class of an existing head in place; its weights, name and hooks stay."""
        head.__class__ = FusedLinearCrossEntropyHead

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.targets is None:
            return super().forward(hidden)
        if torch.is_autocast_enabled("cpu"):
            hidden = hidden.to(torch.get_autocast_dtype("cpu"))
        result: torch.Tensor = _label_log_probs(hidden, self.weight, self.bias, self.targets)
        return result.unsqueeze(1)


class _LabelLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        head = _rounded(hidden.dtype, weight, bias)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        saved = None
        if trained and len(hidden) * len(weight) * hidden.element_size() <= MAX_SAVED_BYTES:
            saved = hidden.new_empty(len(hidden), len(weight))
        parts = []
        for chunk in _chunks(hidden, weight):
            logits = linear(hidden[chunk], *head)
            parts.append(label_log_probs_(logits, targets[chunk], grad=trained or grad_hidden is not None))
            if grad_hidden is not None:
                grad_hidden[chunk] = logits @ head[0]
            if saved is not None:
                saved[chunk] = logits
        ctx.save_for_backward(grad_hidden, targets, *((hidden, weight, bias, saved) if trained else ()))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, targets, *trained = ctx.saved_tensors
        dhidden = None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype).unsqueeze(1)
        if not trained:
            return dhidden, None, None, None
        hidden, weight, bias, saved = trained
        factors = grad.to(hidden.dtype).unsqueeze(1)
        dweight = torch.zeros_like(weight)
        dbias = None if bias is None else torch.zeros_like(bias)
        for chunk, dlogits in _logit_gradients(hidden, weight, bias, targets, saved):
            dweight += dlogits.t() @ (hidden[chunk] * factors[chunk])
            if dbias is not None:
                dbias += (dlogits.t() @ factors[chunk]).squeeze(1)
        return dhidden, dweight, dbias, None


def _logit_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    saved: torch.Tensor | None,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Gradients of the log-probabilities by the logits: the saved ones, or recomputed chunk by chunk."""
    if saved is not None:
        yield slice(None), saved
        return
    head = _rounded(hidden.dtype, weight, bias)
    for chunk in _chunks(hidden, weight):
        logits = linear(hidden[chunk], *head)
        label_log_probs_(logits, targets[chunk], grad=True)
        yield chunk, logits


def _rounded(
    dtype: torch.dtype, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


_label_log_probs: Any = _LabelLogProbs.apply


def _chunks(hidden: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    rows = max(32, CHUNK_BYTES // (weight.shape[0] * hidden.element_size()))
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)] or [slice(0, 0)]
