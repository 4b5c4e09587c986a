"""Causal attention record by record, as plain matrix products over groups of records of nearly one length.

For each group and each block of queries i, with keys j up to the block's end:

    P = softmax(scale Q K^T + mask),  O = P V
    dV = P^T dO,  dS = P * (dO V^T - rowsum(P * dO V^T)),  dQ = scale dS K,  dK = scale dS^T Q

Blocks of queries leave out half of the square above the diagonal. On CPUs these products run at the speed of
any other, which the fused kernel's small tiles do not (Dao 2023, arXiv 2307.08691, is made for a GPU's fast
memory). Heads that share keys stand below each other as rows of one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from llm_finetune.kernels.training.ops import causal_softmax_, softmax_grad_
from llm_finetune.kernels.training.segments import SegmentGroup, Segments

NAME = "packed_causal"
BLOCK = 128
MAX_CACHED_LENGTH = 512
"""Up to this length probabilities are saved for the backward pass; beyond, recomputing them costs less."""

_UNKNOWN = ("softcap", "s_aux", "position_bias")


def register() -> None:
    """Makes the attention known to transformers under `NAME`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function that transformers calls in each layer.

    Args:
        query: shape (1, heads, tokens, head width); key and value may have fewer heads.
        segments: the packed records; None: PyTorch's attention, as in generation.

    Returns:
        Outputs of shape (1, tokens, heads, head width).
    """
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **others,
        )  # fmt: skip
        return plain
    _refuse_unknown(module, dropout, sliding_window, others)
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    tokens = (x[0].transpose(0, 1) for x in (query, key, value))
    output: torch.Tensor = _attend(*tokens, segments, scale, sliding_window)
    return output.unsqueeze(0), None


def _refuse_unknown(module: Any, dropout: float, window: int | None, others: dict[str, Any]) -> None:
    """Raises NotImplementedError for anything but causal attention, with or without a sliding window."""
    unknown = [name for name in _UNKNOWN if others.get(name) is not None]
    if dropout:
        unknown.append("dropout")
    if others.get("is_causal") is False or not getattr(module, "is_causal", True):
        unknown.append("keys after the query")
    kinds = getattr(module.config, "layer_types", None) or ()
    kind = kinds[module.layer_idx] if kinds else "full_attention"
    if kind not in ("full_attention", "sliding_attention") or (kind == "sliding_attention" and not window):
        unknown.append(kind)
    if unknown:
        raise NotImplementedError(f"it requires {', '.join(unknown)}")


class RecordAttention(torch.autograd.Function):
    """The attention of the module's docstring.

    Shapes: query (tokens, heads, width), key (tokens, key heads, width), value (tokens, key heads, width of
    values), output (tokens, heads, width of values).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: Segments,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        aligned = [segments.align(x.flatten(1)) for x in (query, key, value)]
        ctx.heads, ctx.key_heads = query.shape[1], key.shape[1]
        ctx.segments, ctx.scale, ctx.window = segments, scale, window
        output = aligned[0].new_empty(segments.positions, ctx.heads * value.shape[-1])
        saved = []
        for group in segments.groups:
            q, k, v = _batched(ctx, group, *aligned)
            out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
            for rows, keys in _blocks(group.length, window):
                probabilities = _probabilities(q, k, rows, keys, scale, window)
                product = torch.bmm(probabilities, v[:, keys])
                out[:, :, rows] = product.view(*out[:, :, rows].shape)
                if ctx.needs_input_grad[0] and group.length <= MAX_CACHED_LENGTH:
                    saved.append(probabilities)
            _unbatch(output, group, out, ctx.heads)
        ctx.save_for_backward(*aligned, *saved)
        return segments.pick(output).view(query.shape[0], ctx.heads, -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        segments: Segments = ctx.segments
        query, key, value, *probabilities = ctx.saved_tensors
        aligned, saved = (query, key, value), iter(probabilities)
        grads = [torch.empty_like(x) for x in aligned]
        aligned_grad = segments.align(grad.flatten(1))
        for group in segments.groups:
            q, k, v = _batched(ctx, group, *aligned)
            (g,) = _batched(ctx, group, aligned_grad)
            dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for rows, keys in _blocks(group.length, ctx.window):
                if group.length <= MAX_CACHED_LENGTH:
                    p = next(saved)
                else:
                    p = _probabilities(q, k, rows, keys, ctx.scale, ctx.window)
                g_rows, q_rows = (x[:, :, rows].flatten(1, 2) for x in (g, q))
                dv[:, keys] += torch.bmm(p.transpose(1, 2), g_rows)
                dp = torch.bmm(g_rows, v[:, keys].transpose(1, 2))
                ds = softmax_grad_(p, dp, ctx.scale)
                dq[:, :, rows] = torch.bmm(ds, k[:, keys]).view(*dq[:, :, rows].shape)
                dk[:, keys] += torch.bmm(ds.transpose(1, 2), q_rows)
            for whole, part, heads in zip(
                grads, (dq, dk, dv), (ctx.heads, ctx.key_heads, ctx.key_heads), strict=True
            ):
                _unbatch(whole, group, part, heads)
        tokens = grad.shape[0]
        dq, dk, dv = (segments.pick(x) for x in grads)
        return (
            dq.view(tokens, ctx.heads, -1), dk.view(tokens, ctx.key_heads, -1),
            dv.view(tokens, ctx.key_heads, -1), None, None, None,
        )  # fmt: skip


_attend: Any = RecordAttention.apply


def _batched(ctx: Any, group: SegmentGroup, *aligned: torch.Tensor) -> Iterator[torch.Tensor]:
    """A group's part of aligned tensors, one matrix for each record and key head.

    Returns:
        (records x key heads, heads a key head, length, width) of what has all heads, the first of them; and
        (records x key heads, length, width) of keys and values.
    """
    for number, tokens in enumerate(aligned):
        heads = ctx.key_heads if number else ctx.heads
        part = tokens[group.start : group.start + group.records * group.length]
        batch = part.view(group.records, group.length, heads, -1).transpose(1, 2)
        if number:
            yield batch.reshape(-1, group.length, batch.shape[-1])
        else:
            yield batch.reshape(-1, heads // ctx.key_heads, group.length, batch.shape[-1])


def _unbatch(aligned: torch.Tensor, group: SegmentGroup, batch: torch.Tensor, heads: int) -> None:
    """Writes what `_batched` returned back to its place."""
    part = aligned[group.start : group.start + group.records * group.length]
    into = part.view(group.records, group.length, heads, -1).transpose(1, 2)
    into.copy_(batch.view(into.shape))


def _blocks(length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Queries, and the keys that any of them sees."""
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        yield slice(start, end), slice(max(0, start + 1 - window) if window else 0, end)


def _probabilities(
    q: torch.Tensor, k: torch.Tensor, rows: slice, keys: slice, scale: float, window: int | None
) -> torch.Tensor:
    """Shape (batch, heads a key head x queries, keys)."""
    scores = torch.bmm(q[:, :, rows].flatten(1, 2), k[:, keys].transpose(1, 2))
    by_head = scores.view(-1, rows.stop - rows.start, scores.shape[-1])
    causal_softmax_(by_head, rows.start, keys.start, window, scale)
    return scores
