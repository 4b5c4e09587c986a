"""Rotary embeddings whose frequencies depend on a text's length: each record's are those of its own length.

LongRoPE (Ding et al. 2024, arXiv 2402.13753) and dynamic NTK scaling turn positions by other frequencies
where a text is longer than those of the first training. transformers decides by the longest position of a
batch, so one long record would change every other beside it, in its row or in another; and dynamic NTK
remembers the longest that ever came.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch

from llm_finetune.errors import ModelError


def keep_lengths_apart(model: torch.nn.Module) -> None:
    """Lets each rotary embedding of the model see one length at a time, where lengths matter to it."""
    for module in _by_length(model):
        module.forward = MethodType(_forward, module)


def check_lengths_apart(model: Any, max_length: int) -> None:
    """Raises ModelError where lengths matter to a model whose own code does not show where.

    Args:
        max_length: tokens a sequence (distributed.train.maxSeqLength).
    """
    same = _same_up_to(model.config.get_text_config())
    if same is not None and max_length > same and not any(_by_length(model)):
        raise ModelError(
            f"distributed.train.maxSeqLength: found {max_length}, but above {same} this model's own code "
            f"lets one long record change the others of its batch; write {same} or less"
        )


def _by_length(model: torch.nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(module, "rope_type") and _same_up_to(getattr(module, "config", None)) is not None:
            yield module


def _same_up_to(config: Any) -> int | None:
    """Up to this length all texts are turned by the same frequencies; None where that holds for any."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer = [one for one in parameters.values() if isinstance(one, dict)]
    lengths = [
        int(one.get("original_max_position_embeddings") or config.max_position_embeddings)
        for one in by_layer or [parameters]
        if one.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(lengths, default=None)


def _forward(module: Any, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward, once for all records up to that length and once for each length above."""

    def turned(position_ids: torch.Tensor) -> Any:
        return type(module).forward(module, x, position_ids, *args, **kwargs)

    same = _same_up_to(module.config)
    if same is None or position_ids.dim() != 2:
        return turned(position_ids)
    lengths = _lengths(position_ids)
    is_short = lengths <= same
    result = turned(position_ids.where(is_short, 0))
    for length in sorted(set(lengths[~is_short].tolist())):
        here = lengths == length
        result = _chosen(here, turned(position_ids.where(here, 0)), result)
        turned(torch.zeros_like(position_ids))  # lets the module forget that length
    return result


def _lengths(position_ids: torch.Tensor) -> torch.Tensor:
    """For each position the length of its record; a record begins with its row, and wherever a 0 stands."""
    begins = position_ids == 0
    begins[:, 0] = True
    record = begins.flatten().cumsum(0) - 1
    lengths = torch.zeros(int(record[-1]) + 1, dtype=position_ids.dtype, device=position_ids.device)
    lengths = lengths.scatter_reduce(0, record, position_ids.flatten() + 1, "amax")
    return lengths[record].view_as(position_ids)


def _chosen(here: torch.Tensor, one: Any, other: Any) -> Any:
    """Cosines and sines, or whatever of shape (rows, positions, ...) the module gives."""
    if isinstance(one, tuple):
        return tuple(_chosen(here, a, b) for a, b in zip(one, other, strict=True))
    return torch.where(here.view(*here.shape, *(1,) * (one.dim() - 2)), one, other)
