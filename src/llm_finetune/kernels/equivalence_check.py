"""Runs a model deterministically in evaluation or training mode, so that two implementations can be compared.

In training mode dropout makes every run different. Here dropout scales all values by the probability of
keeping one, so a missing or an additional dropout changes the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


@contextmanager
def on_trial(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """The body runs the model as in evaluation or in training; mode and random state are as before then."""
    was_training = model.training
    model.train(training)
    try:
        with torch.random.fork_rng(devices=[]), _ScaledDropout():
            torch.manual_seed(0)  # for what else is drawn
            yield
    finally:
        model.train(was_training)


class _ScaledDropout(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is dropout:
            return _scaled(*args, **kwargs)
        if function is scaled_dot_product_attention:
            return _attended(*args, **kwargs)
        return function(*args, **kwargs)


def _scaled(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    dropout(x.new_zeros(()), p)  # raises for an invalid probability
    share = 1 - p if training else 1.0
    return x.mul_(share) if inplace else x * share


def _attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    **others: Any,
) -> torch.Tensor:
    """Weights that are scaled down scale the sum of the values down."""
    return scaled_dot_product_attention(query, key, value, attn_mask, 0.0, **others) * (1 - dropout_p)
