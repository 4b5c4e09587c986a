"""Which norms of a block can pass a scale on to the linear layers that read them.

AWQ and TEQ divide a norm's outputs and multiply the weights behind it: the same function, easier to round.
Whether it is the same depends on the architecture (some norms add 1 to their weight, some are read by more
than linear layers), so it is tried on the block instead of looked up by name.
"""

from __future__ import annotations

from typing import Any

import torch

from llm_finetune.errors import ModelError
from llm_finetune.quantization.decoder_blocks import Block
from llm_finetune.quantization.quantized_model import is_linear

TOLERANCE = 1e-3


def scalable(block: Block) -> dict[str, list[str]]:
    """Paths in the block: for each norm that can pass a scale on, the linear layers that get it."""
    readers = {norm: paths for norm, paths in _readers(block).items() if paths}
    return {norm: paths for norm, paths in readers.items() if _is_equivalent(block, norm, paths)}


def unscalable(algorithm: str, model_type: str) -> ModelError:
    """The error for a model of which no norm can pass a scale on."""
    return ModelError(
        f"{algorithm}: no norm of a {model_type} model can pass a scale on to its linear layers; "
        "write GPTQ or RTN (distributed.quantize.woqAlgo)"
    )


def _readers(block: Block) -> dict[str, list[str]]:
    """For each norm the linear layers that are given its very output."""
    outputs: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}
    hooks = []

    def keep(where: dict[str, torch.Tensor], path: str, what: int) -> Any:
        def hook(_: torch.nn.Module, given: tuple[Any, ...], output: Any) -> None:
            where[path] = (given[0], output)[what]

        return hook

    for path, module in block.module.named_modules():
        if _is_plain(module):
            hooks.append(module.register_forward_hook(keep(inputs, path, 0)))
        elif _is_norm(module):
            hooks.append(module.register_forward_hook(keep(outputs, path, 1)))
    try:
        block.run(block.calls[0])
    finally:
        for hook in hooks:
            hook.remove()
    return {norm: [path for path in inputs if inputs[path] is output] for norm, output in outputs.items()}


def _is_plain(module: torch.nn.Module) -> bool:
    """Of shape (out, in), so that a scale for each input multiplies its columns."""
    return is_linear(module) and isinstance(module, torch.nn.Linear)


def _is_norm(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.nn.Parameter) and weight.dim() == 1


@torch.no_grad()
def _is_equivalent(block: Block, norm_path: str, linear_paths: list[str]) -> bool:
    """Whether the block's output stays when the norm is divided and its readers are multiplied."""
    norm = block.module.get_submodule(norm_path)
    changed = [norm, *(block.module.get_submodule(path) for path in linear_paths)]
    before = [{name: p.clone() for name, p in module.named_parameters()} for module in changed]
    expected = block.run(block.calls[0])
    scale = torch.rand(before[0]["weight"].shape, generator=torch.Generator().manual_seed(0)) + 0.5
    for parameter in norm.parameters():
        parameter.div_(scale)
    for linear in changed[1:]:
        linear.get_parameter("weight").mul_(scale)
    found = block.run(block.calls[0])
    for module, parameters in zip(changed, before, strict=True):
        for name, parameter in module.named_parameters():
            parameter.copy_(parameters[name])
    return bool((found - expected).norm() <= TOLERANCE * expected.norm())
