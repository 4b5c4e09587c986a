"""Quantized layers compute what their weights say, whichever kernel runs them."""

from __future__ import annotations

import pytest
import torch

from llm_finetune.model.codes import Scheme, pack, unpack
from llm_finetune.model.kernels import quantized_linear
from llm_finetune.quantization.nearest import round_to_nearest


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_loses_nothing(bits: int) -> None:
    codes = torch.randint(
        0, 2**bits, (5, 37), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits)
    )
    assert torch.equal(unpack(pack(codes, bits), bits, 37), codes)


# One bit cannot lie around zero: the settings' check refuses it.
SCHEMES = [
    (bits, symmetric) for bits in range(1, 9) for symmetric in (True, False) if bits > 1 or not symmetric
]


@pytest.mark.parametrize(("bits", "symmetric"), SCHEMES)
@pytest.mark.parametrize("group", [-1, 32, 48, 64, 128])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_a_layer_is_the_product_with_its_dequantized_weight(
    bits: int, group: int, symmetric: bool, rows: int
) -> None:
    generator = torch.Generator().manual_seed(bits)
    matrix = torch.randn(48, 192, generator=generator)
    inputs = torch.randn(rows, 192, generator=generator).bfloat16()
    weight = round_to_nearest(matrix, Scheme(bits, group, symmetric))
    bias = torch.randn(48, generator=generator).bfloat16()
    expected = inputs.float() @ weight.dequantize(torch.float32).T + bias.float()
    found = quantized_linear(weight, bias, torch.bfloat16)(inputs).float()
    # Two roundings to bf16, of the weights and of the sum.
    assert (found - expected).norm() <= 0.01 * expected.norm()


@pytest.mark.parametrize(("bits", "closer"), [(2, 4), (4, 8)])
def test_more_bits_are_closer(bits: int, closer: int) -> None:
    matrix = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))

    def error(bits: int) -> float:
        weight = round_to_nearest(matrix, Scheme(bits, 32, False))
        return float((weight.dequantize(torch.float32) - matrix).norm() / matrix.norm())

    assert error(closer) < error(bits) / 4
