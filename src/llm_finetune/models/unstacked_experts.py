"""Experts as linear layers: transformers keeps those of a layer stacked, in one weight of three dimensions.

What works layer by layer, as a quantization does, finds each expert's matrix only once they are apart. The
module stays what it was, with its own gate and activation; a weight of it becomes a list of linear layers of
the same name: `mlp.experts.down_proj`, shape (experts, out, in), becomes `mlp.experts.down_proj.0.weight` ...
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BIAS = "_bias"


@dataclass(frozen=True)
class Stack:
    """A stacked weight, or stacked biases, and what they are apart.

    Attributes:
        names: of each expert's part, in the model whose experts are apart.
        transposed: each expert's matrix is of shape (in, out).
    """

    names: tuple[str, ...]
    transposed: bool

    def cut(self, stacked: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Each part with its name: shape (out, in), or (out,); views."""
        for name, part in zip(self.names, stacked, strict=True):
            yield name, part.T if self.transposed else part


def unstack(model: PreTrainedModel, layers: Collection[str] | None = None) -> dict[str, Stack]:
    """Puts linear layers in place of the model's stacked experts; they share the memory of its weights.

    Experts that transformers does not run by its own scheme for them stay as they are.

    Args:
        layers: paths of linear layers; only experts that have one of these are changed. None: all.

    Returns:
        By its name in the model as it was, what each weight has become.
    """
    wanted = None if layers is None else {path.rsplit(".", 2)[0] for path in layers}
    stacks: dict[str, Stack] = {}
    for path, module in list(model.named_modules()):
        if _is_stacked(module) and (wanted is None or path in wanted):
            stacks |= {f"{path}.{name}": stack for name, stack in _unstack(path, module).items()}
    return stacks


def _is_stacked(module: Any) -> bool:
    """Whether transformers' `use_experts_implementation` made it: these names are what that relies on."""
    return (
        hasattr(type(module), "_apply_gate")
        and hasattr(module, "is_transposed")
        and isinstance(getattr(module, "down_proj", None), torch.nn.Parameter)
    )


def _unstack(path: str, experts: Any) -> dict[str, Stack]:
    stacks = {}
    for name in ("gate_up_proj" if experts.has_gate else "up_proj", "down_proj"):
        stacked = getattr(experts, name)
        names = [f"{path}.{name}.{number}" for number in range(len(stacked))]
        stacks[name] = Stack(tuple(f"{one}.weight" for one in names), bool(experts.is_transposed))
        weights = [weight for _, weight in stacks[name].cut(stacked)]
        biases: list[torch.Tensor | None] = [None] * len(names)
        if experts.has_bias:
            stacks[name + BIAS] = Stack(tuple(f"{one}.bias" for one in names), False)
            biases = [bias for _, bias in stacks[name + BIAS].cut(getattr(experts, name + BIAS))]
            delattr(experts, name + BIAS)
        delattr(experts, name)
        setattr(experts, name, torch.nn.ModuleList(map(_linear, weights, biases)))
    experts.forward = MethodType(_forward, experts)
    return stacks


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    """Over the same memory."""
    out_features, in_features = weight.shape
    linear = torch.nn.Linear(in_features, out_features, bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias.detach(), requires_grad=False)
    return linear


def _forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """As transformers' `batched_mm_experts_forward`, expert by expert.

    Args:
        hidden_states: shape (tokens, width).
        top_k_index: each token's experts, shape (tokens, experts a token).
        top_k_weights: what each counts, of the same shape.
    """
    outputs = torch.zeros_like(hidden_states)
    inward = self.gate_up_proj if self.has_gate else self.up_proj
    for expert in sorted(set(top_k_index.flatten().tolist())):
        rows, places = torch.where(top_k_index == expert)
        inner = inward[expert](hidden_states[rows])
        inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
        output = self.down_proj[expert](inner)
        if self.has_post_expert_norm:
            output = self.post_expert_norm(output)
        weighted = output * top_k_weights[rows, places].unsqueeze(-1)
        outputs.index_add_(0, rows, weighted.to(outputs.dtype))
    return outputs
