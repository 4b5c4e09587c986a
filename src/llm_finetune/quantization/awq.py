"""AWQ (Lin et al. 2023, arXiv 2306.00978): rounds weights more finely where calibration inputs are large.

A norm is divided by a scale and the weights that read it are multiplied, with the scale that gives the
smallest error of the block's output; then the clipping range with the smallest error of each layer's
output is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from llm_finetune.quantization import neural_compressor
from llm_finetune.quantization.decoder_blocks import Block, walk
from llm_finetune.quantization.packed_weights import QuantizedWeight, Scheme
from llm_finetune.quantization.quantized_model import features
from llm_finetune.quantization.rtn import round_to_nearest
from llm_finetune.quantization.scale_absorption import scalable, unscalable


def awq(
    model: PreTrainedModel, scheme: Scheme, texts: Sequence[Sequence[int]]
) -> Iterator[tuple[str, QuantizedWeight | torch.Tensor]]:
    """The decoder blocks' linear layers that a norm can pass a scale on to, and those norms' weights.

    Raises:
        ModelError: no norm of this architecture can.
    """
    search = neural_compressor.weight_only("awq").ActAwareWeightQuant(
        model,
        example_inputs=torch.empty(0),
        bits=scheme.bits,
        group_size=scheme.group_size,
        scheme="sym" if scheme.symmetric else "asym",
        weight_config={},
    )
    found = False
    for block in walk(model, texts):
        groups = {
            norm: paths for norm, paths in scalable(block).items() if _whole_groups(block, paths[0], scheme)
        }
        found = found or bool(groups)
        for path, clip in _scale_and_clip(search, block, groups).items():
            yield f"{block.path}.{path}", round_to_nearest(block.linears()[path].weight.data, scheme, clip)
        for norm in groups:
            for name, parameter in block.module.get_submodule(norm).named_parameters():
                yield f"{block.path}.{norm}.{name}", parameter.data
    if not found:
        raise unscalable("AWQ", model.config.model_type)


@torch.no_grad()
def _scale_and_clip(search: Any, block: Block, groups: dict[str, list[str]]) -> dict[str, float]:
    """Scales the block in place; for each layer that was scaled, its clipping ratio."""
    named = {tuple(f"{block.path}.{path}" for path in paths): norm for norm, paths in groups.items()}
    search.absorb_layer_dict = {names: f"{block.path}.{norm}" for names, norm in named.items()}
    search.total_block_args = [[call.hidden, *call.args] for call in block.calls]
    search.total_block_kwargs = [call.kwargs for call in block.calls]
    inputs = _inputs(block, [paths[0] for paths in groups.values()])
    with _at_the_asked_bits(search.bits):
        scales = search.search_scale(block.module, block.path, list(named), inputs)
        search.apply_scale(scales)
        for names, scale in scales.items():
            of_group = inputs[names[0].removeprefix(f"{block.path}.")]
            of_group["input"] = [states / scale for states in of_group["input"]]
        search.search_clip(block.path, list(named), inputs)
    return {
        path: search.weight_config[f"{block.path}.{path}"]["quantile"]
        for paths in groups.values()
        for path in paths
    }


def _whole_groups(block: Block, path: str, scheme: Scheme) -> bool:
    """neural-compressor's search takes no other rows."""
    columns = features(block.linears()[path])[1]
    return columns % scheme.group_in(columns) == 0


def _inputs(block: Block, paths: list[str]) -> dict[str, dict[str, list[torch.Tensor]]]:
    """What those layers are given for each text, as neural-compressor takes it."""
    inputs: dict[str, dict[str, list[torch.Tensor]]] = {path: {"input": []} for path in paths}

    def keep(path: str) -> Any:
        return lambda _, given: inputs[path]["input"].append(given[0])

    hooks = [block.module.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
    block.run_watched(hooks)
    return inputs


@contextmanager
def _at_the_asked_bits(bits: int) -> Iterator[None]:
    """neural-compressor 3.8 hands its search the bits under a name that is not read, so it searches at 4."""
    utility = neural_compressor.weight_only("utility")
    as_it_was = utility.quant_tensor
    utility.quant_tensor = partial(as_it_was, bits=bits)
    try:
        yield
    finally:
        utility.quant_tensor = as_it_was
