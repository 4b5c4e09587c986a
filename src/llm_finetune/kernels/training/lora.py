"""A frozen linear layer with its low-rank adapter, as one step of the graph.

    y = x W^T + b + s drop(x) A^T B^T                (Hu et al. 2021, arXiv 2106.09685)
    dB = s dy^T drop(x) A^T,  dA = s B^T dy^T drop(x),  dx = dy W + drop'(s dy B A)

peft's layer converts x to fp32, computes both products in fp32 and adds them in another pass. Here the
adapter's weights, which stay fp32, are rounded to x's format for the products, as autocast does, and these
accumulate into the base layer's output. Dropout saves the seed instead of the mask; its masks differ from
peft's, but have the same distribution.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear

from llm_finetune.kernels.training.ops import dropped


def install(model: torch.nn.Module) -> int:
    """Replaces the forward pass of every supported LoRA layer; returns their number."""
    from peft.tuners.lora import Linear as LoraLinear

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear) and _is_known(layer)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_known(layer: Any) -> bool:
    """One plain adapter, such as LoraConfig makes, above a frozen torch.nn.Linear."""
    (name, *others) = layer.lora_A.keys()
    return (
        type(layer.base_layer) is torch.nn.Linear
        and not layer.base_layer.weight.requires_grad
        and not others
        and name not in layer.lora_variant
        and not layer.fan_in_fan_out
        and layer.lora_A[name].bias is layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], torch.nn.Identity | torch.nn.Dropout)
    )


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    (name,) = layer.lora_A.keys()
    base = layer.base_layer
    if layer.disable_adapters or layer.merged or args or kwargs or layer.active_adapters != [name]:
        result: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return result
    dropout = layer.lora_dropout[name]
    rate = dropout.p if isinstance(dropout, torch.nn.Dropout) and layer.training else 0.0
    # Out of torch's generator, so that a checkpoint's random state brings the same masks back.
    seed = int(torch.randint(2**32, ())) if rate else 0
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    stepped: torch.Tensor = _low_rank_linear(
        x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight,
        layer.scaling[name], rate, seed,
    )  # fmt: skip
    return stepped


class LowRankLinear(torch.autograd.Function):
    """The step of the module's docstring; x of shape (..., in), A (rank, in), B (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        rate: float,
        seed: int,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weight = weight.to(x.dtype)
        result = linear(rows, weight, None if bias is None else bias.to(x.dtype))
        low = linear(dropped(rows, rate, seed) if rate else rows, a.to(x.dtype))
        result.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.rate, ctx.seed = scale, rate, seed
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        dy = grad.reshape(-1, grad.shape[-1])
        dlow = (dy @ b.to(dy.dtype)).mul_(ctx.scale)
        seen = dropped(rows, ctx.rate, ctx.seed) if ctx.rate else rows
        da = (dlow.t() @ seen).to(a.dtype)
        db = (dy.t() @ low).to(b.dtype).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            if ctx.rate:
                dx += dropped(dlow @ a.to(dy.dtype), ctx.rate, ctx.seed)
            else:
                dx.addmm_(dlow, a.to(dy.dtype))
            dx = dx.view(*grad.shape[:-1], -1)
        return dx, None, None, da, db, None, None, None


_low_rank_linear: Any = LowRankLinear.apply
