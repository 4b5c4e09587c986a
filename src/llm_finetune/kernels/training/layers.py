"""Norms, rotary embeddings and gated feed-forward layers as single passes, where kernels are compiled.

A layer is replaced only after it and the kernel have given the same outputs on random inputs, so a class
that merely has a known name stays unchanged. Only this model's instances are changed, never a class of
transformers: another model of this process, such as the one that is quantized after training, keeps the
original layers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch

from llm_finetune.kernels.training.bindings import Kernels, kernels, takes

TOLERANCE = 1e-5
_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
_ROTARY = "apply_rotary_pos_emb"


def install(model: torch.nn.Module) -> dict[str, int]:
    """Replaces the layers that a kernel is equivalent to; returns their number by kind."""
    native = kernels()
    if native is None:
        return {}
    counts = {"norms": 0, "gates": 0, "rotary": 0}
    proved: dict[object, Any] = {}

    def once(key: object, prove: Callable[[Kernels, Any], Any], layer: Any) -> Any:
        if key not in proved:
            proved[key] = prove(native, layer)
        return proved[key]

    for layer in model.modules():
        kind = type(layer)
        if kind.__name__.endswith("RMSNorm"):
            shift = once(kind, _norm_shift, layer)
            if shift is not None:
                layer.forward = MethodType(_norm_forward(native, shift), layer)
                counts["norms"] += 1
        elif all(hasattr(layer, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            gelu = once((kind, type(layer.act_fn)), _gate_kind, layer)
            if gelu is not None:
                layer.forward = MethodType(_gated_forward(native, gelu), layer)
                counts["gates"] += 1
        elif _ROTARY in getattr(getattr(kind.forward, "__code__", None), "co_names", ()):
            forward = once(kind.forward, _rotary_forward, kind.forward)
            if forward is not None:
                layer.forward = MethodType(forward, layer)
                counts["rotary"] += 1
    return counts


def remove(model: torch.nn.Module) -> None:
    """Restores the original forward passes."""
    for layer in model.modules():
        if getattr(layer.__dict__.get("forward"), "__module__", "") == __name__:
            del layer.__dict__["forward"]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, native: Kernels, x: torch.Tensor, weight: torch.Tensor, eps: float, shift: float
    ) -> torch.Tensor:
        x, result = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
        width = x.shape[-1]
        inverse = torch.empty(x.numel() // width, dtype=torch.float32)
        native.run("rms_norm", x, weight, result, inverse, len(inverse), width, eps, shift)
        ctx.save_for_backward(x, weight, inverse)
        ctx.native, ctx.shift = native, shift
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, width = grad.contiguous(), x.shape[-1]
        dx = torch.empty_like(x)
        ctx.native.run("rms_norm_grad", grad, x, weight, inverse, dx, len(inverse), width, ctx.shift)
        dweight = None
        if ctx.needs_input_grad[2]:
            normed = x.view(-1, width) * inverse.unsqueeze(1)
            dweight = (grad.view(-1, width) * normed).sum(0).to(weight.dtype)
        return None, dx, dweight, None, None


_rms_norm: Any = _RmsNorm.apply


def _norm_forward(native: Kernels, shift: float) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        if not takes(x, layer.weight):
            result: torch.Tensor = type(layer).forward(layer, x)
            return result
        normed: torch.Tensor = _rms_norm(native, x, layer.weight, _epsilon(layer), shift)
        return normed

    return forward


def _epsilon(layer: Any) -> float:
    eps: float = layer.variance_epsilon if hasattr(layer, "variance_epsilon") else layer.eps
    return eps


@torch.no_grad()
def _norm_shift(native: Kernels, layer: Any) -> float | None:
    """What is added to the weights: 0 for most models, 1 for Gemma's; None where neither is right."""
    weight = getattr(layer, "weight", None)
    if weight is None or not (hasattr(layer, "variance_epsilon") or hasattr(layer, "eps")):
        return None
    x = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0))
    expected = type(layer).forward(layer, x)
    for shift in (0.0, 1.0):
        found = _rms_norm(native, x, weight.float(), _epsilon(layer), shift)
        if torch.allclose(found, expected.float(), rtol=0, atol=_allowed(weight, expected)):
            return shift
    return None


def _allowed(weight: torch.Tensor, expected: torch.Tensor) -> float:
    """A layer with bf16 weights may round on its way."""
    relative = TOLERANCE if weight.dtype == torch.float32 else 2**-7
    return relative * max(1.0, float(expected.abs().max()))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, native: Kernels, gate: torch.Tensor, up: torch.Tensor, gelu: int) -> torch.Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        result = torch.empty_like(gate)
        native.run("gated", gate, up, result, gate.numel(), gelu)
        ctx.save_for_backward(gate, up)
        ctx.native, ctx.gelu = native, gelu
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        ctx.native.run("gated_grad", grad.contiguous(), gate, up, dgate, dup, gate.numel(), ctx.gelu)
        return None, dgate, dup, None


_gated: Any = _Gated.apply


def _gated_forward(native: Kernels, gelu: int) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_proj(x), layer.up_proj(x)
        hidden = _gated(native, gate, up, gelu) if takes(gate, up) else layer.act_fn(gate) * up
        result: torch.Tensor = layer.down_proj(hidden)
        return result

    return forward


@torch.no_grad()
def _gate_kind(native: Kernels, layer: Any) -> int | None:
    """Which activation the layer has, if it is a gated one with an activation that the kernels know."""
    gate, up = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0)) * 4
    expected = layer.act_fn(gate) * up
    kinds = [
        gelu
        for gelu in _ACTIVATIONS.values()
        if torch.allclose(_gated(native, gate, up, gelu), expected, rtol=TOLERANCE, atol=TOLERANCE)
    ]
    if not kinds:
        return None
    weight = layer.gate_proj.weight
    x = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    expected = type(layer).forward(layer, x)
    same = torch.allclose(
        _gated_forward(native, kinds[0])(layer, x), expected, rtol=0, atol=_allowed(weight, expected)
    )
    return kinds[0] if same else None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, native: Kernels, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.native = native
        return _rotated(native, x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return None, _rotated(ctx.native, grad, cos, sin, back=True), None, None


_rotate: Any = _Rotate.apply


def _rotated(
    native: Kernels, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, back: bool
) -> torch.Tensor:
    """Of shape (rows, heads, tokens, width); in memory tokens stand before heads, as in a linear layer."""
    rows, heads, tokens, width = x.shape
    dense = x.transpose(1, 2).contiguous()
    result = torch.empty_like(dense)
    native.run("rotate", dense, cos, sin, result, rows * tokens, heads, width, back)
    return result.transpose(1, 2)


def _rotary_forward(native: Kernels, forward: Any) -> FunctionType | None:
    """An attention layer's forward pass that rotates by the pass; None where the rotations differ.

    The layer calls transformers' function by its name, which other models of this process call as well: so it
    is this copy of the forward pass that knows another function by that name.
    """
    plain = forward.__globals__.get(_ROTARY)
    if plain is None:
        return None

    def rotary(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        whole = cos.dim() == 3 and q.dim() == k.dim() == 4 and q.shape[-1] == k.shape[-1] == cos.shape[-1]
        if args or kwargs or not whole or not takes(q, k, cos, sin) or len(cos) != len(q):
            return plain(q, k, cos, sin, *args, **kwargs)
        cos, sin = cos.contiguous(), sin.contiguous()
        return _rotate(native, q, cos, sin), _rotate(native, k, cos, sin)

    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 3, 8, generator=generator)
    cos, sin = torch.randn(2, 1, 3, 8, generator=generator)
    try:
        expected, found = plain(q, k, cos, sin), rotary(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):
        return None  # a function of the same name with other arguments
    if not all(torch.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(expected, found, strict=True)):
        return None
    names = {**forward.__globals__, _ROTARY: rotary, "__name__": __name__}
    rotated = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    rotated.__kwdefaults__ = forward.__kwdefaults__
    return rotated
