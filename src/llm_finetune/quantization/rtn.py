"""Rounding to the nearest code (RTN): the last step of every algorithm but GPTQ."""

from __future__ import annotations

import torch

from llm_finetune.quantization import neural_compressor
from llm_finetune.quantization.packed_weights import QuantizedWeight, Scheme


@torch.no_grad()
def round_to_nearest(weight: torch.Tensor, scheme: Scheme, clip: float = 1.0) -> QuantizedWeight:
    """Each group's range is cut into 2^bits - 1 equal steps.

    Args:
        weight: shape (out, in); worked on in fp32.
        clip: share of the range that is represented; values outside are clamped.
    """
    codes, scales, zero_points = neural_compressor.weight_only("utility").quant_tensor(
        weight.to(torch.float32, copy=True),  # it works in place
        bits=scheme.bits,
        group_size=scheme.group_size,
        scheme="sym" if scheme.symmetric else "asym",
        quantile=clip,
        return_int=True,
    )
    if scheme.symmetric:
        codes += scheme.symmetric_zero_point
    return QuantizedWeight.from_codes(scheme, codes, scales, zero_points)
