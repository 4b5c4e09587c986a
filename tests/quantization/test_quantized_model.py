"""Quantized layers compute what their weights say, whichever kernel runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llm_finetune.config import load
from llm_finetune.errors import ModelError
from llm_finetune.kernels.inference.packing import pack_codes
from llm_finetune.models.merging import TunedModel
from llm_finetune.quantization import linear
from llm_finetune.quantization.linear import kernels_of, quantized_linear
from llm_finetune.quantization.native_linear import NativeLinear, fits
from llm_finetune.quantization.packed_weights import Scheme, pack_bits, unpack_bits
from llm_finetune.quantization.quantize import quantizable_layers, quantize
from llm_finetune.quantization.quantized_model import load_quantized
from llm_finetune.quantization.rtn import round_to_nearest
from tiny_model import VOCABULARY, tiny_model


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_loses_nothing(bits: int) -> None:
    codes = torch.randint(
        0, 2**bits, (5, 37), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits)
    )
    assert torch.equal(unpack_bits(pack_bits(codes, bits), bits, 37), codes)


# One bit cannot lie around zero: the settings' check refuses it.
SCHEMES = [
    (bits, symmetric) for bits in range(1, 9) for symmetric in (True, False) if bits > 1 or not symmetric
]


@pytest.mark.parametrize(("bits", "symmetric"), SCHEMES)
@pytest.mark.parametrize("group", [-1, 32, 48, 64, 128])
@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("own_kernels", [True, False])
def test_a_layer_is_the_product_with_its_dequantized_weight(
    bits: int, group: int, symmetric: bool, rows: int, own_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own_kernels:
        monkeypatch.setattr(linear, "fits", lambda _: False)
    generator = torch.Generator().manual_seed(bits)
    matrix = torch.randn(48, 192, generator=generator)
    inputs = torch.randn(rows, 192, generator=generator).bfloat16()
    weight = round_to_nearest(matrix, Scheme(bits, group, symmetric))
    bias = torch.randn(48, generator=generator).bfloat16()
    expected = inputs.float() @ weight.dequantize(torch.float32).T + bias.float()
    found = quantized_linear(weight, bias, torch.bfloat16)(inputs).float()
    # Two roundings to bf16, of the weights and of the sum.
    assert (found - expected).norm() <= 0.01 * expected.norm()


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "shape", "kernel"),
    [
        (4, 32, True, (48, 192), "torch int4"),
        (4, -1, False, (48, 192), "torch int4"),
        (2, 96, False, (48, 192), "torch int4"),
        (3, 128, True, (48, 160), "torch int4"),
        (8, -1, True, (48, 192), "torch int8"),
        (7, 500, False, (48, 192), "torch int8"),
        (8, -1, False, (48, 192), "unpacked"),
        (8, 32, True, (48, 192), "unpacked"),
        (4, 48, True, (48, 192), "unpacked"),
        (4, 32, True, (40, 192), "unpacked"),
        (8, -1, True, (48, 172), "unpacked"),
    ],
)
def test_a_kernel_of_torchs_runs_what_it_can_hold(
    bits: int,
    group: int,
    symmetric: bool,
    shape: tuple[int, int],
    kernel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "fits", lambda _: False)
    weight = round_to_nearest(torch.randn(shape), Scheme(bits, group, symmetric))
    assert kernels_of(quantized_linear(weight, None, torch.bfloat16)) == kernel


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("own_kernels", [True, False])
def test_a_view_into_another_tensor_gives_the_same(
    bits: int, symmetric: bool, own_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels read whole vectors from addresses that they take to be even ones."""
    if not own_kernels:
        monkeypatch.setattr(linear, "fits", lambda _: False)
    layer = quantized_linear(
        round_to_nearest(torch.randn(32, 64), Scheme(bits, -1, symmetric)), None, torch.bfloat16
    )
    wide = torch.randn(1, 3, 80).bfloat16()
    for view in (wide[:, :, 5:69], wide[:, -1, 7:71], wide.transpose(0, 1)[:, :, 3:67]):
        assert torch.equal(layer(view), layer(view.clone(memory_format=torch.contiguous_format)))


def test_a_row_that_ends_in_a_part_of_a_group_is_whole() -> None:
    matrix = torch.randn(4, 43, generator=torch.Generator().manual_seed(0))
    weight = round_to_nearest(matrix, Scheme(8, 32, False)).dequantize(torch.float32)
    assert weight.shape == matrix.shape
    assert (weight - matrix).abs().max() < 0.02


@pytest.mark.parametrize("group", [-1, 24, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_kernels_of_our_own_round_nothing_but_the_inputs(group: int, symmetric: bool) -> None:
    """Shapes that fill neither a block of rows nor a vector of columns."""
    generator = torch.Generator().manual_seed(1)
    for bits in (2, 4, 5, 8):
        matrix = torch.randn(21, 77, generator=generator)
        weight = round_to_nearest(matrix, Scheme(bits, group, symmetric))
        if not fits(weight):
            pytest.skip("no native kernels here")
        for rows in (1, 2, 5, 8, 15):
            inputs = torch.randn(rows, 77, generator=generator).bfloat16().float()
            expected = inputs @ weight.dequantize(torch.float32).T
            found = NativeLinear(weight, None)(inputs)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_may_begin_at_any_byte_of_a_file(bits: int) -> None:
    memory = torch.randint(0, 2**bits, (1 + 16 * 32,), dtype=torch.uint8)
    codes = memory[1:].view(16, 32)
    assert torch.equal(pack_codes(codes, bits), pack_codes(codes.clone(), bits))


@pytest.mark.parametrize(("bits", "closer"), [(2, 4), (4, 8)])
def test_more_bits_are_closer(bits: int, closer: int) -> None:
    matrix = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))

    def error(bits: int) -> float:
        weight = round_to_nearest(matrix, Scheme(bits, 32, False))
        return float((weight.dequantize(torch.float32) - matrix).norm() / matrix.norm())

    assert error(closer) < error(bits) / 4


def gpt2() -> Any:
    """Its layers keep their weights the other way round."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(bos_token_id=1, eos_token_id=2, **sizes)).eval()


MODELS = {name: lambda name=name: tiny_model(name) for name in ("llama", "qwen2", "gemma2", "gpt_neox")}


@pytest.fixture(params=[*MODELS, "gpt2"])
def quantized_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model beside its quantized form."""
    {**MODELS, "gpt2": gpt2}[request.param]().save_pretrained(tmp_path / "model")
    assignments = [
        f"distributed.quantize.outputDir={tmp_path / 'quantized'}",
        "distributed.quantize.woqBits=3",
    ]
    quantize(TunedModel(tmp_path / "model"), load([], [], assignments, []).settings.quantize, [])
    return tmp_path / "quantized"


def test_the_loaded_model_is_the_model_with_its_weights_rounded(quantized_folder: Path) -> None:
    plain = TunedModel(quantized_folder.parent / "model").load()
    for layer in quantizable_layers(plain).values():
        weight = layer.get_parameter("weight")
        turned = weight.T if not isinstance(layer, torch.nn.Linear) else weight
        rounded = round_to_nearest(turned, Scheme(3, -1, True)).dequantize(torch.float32)
        weight.data = rounded.T if turned is not weight else rounded
    ids = torch.arange(3, 83).view(2, 40)
    loaded = load_quantized(quantized_folder, dtype=torch.float32)
    with torch.no_grad():
        found, expected = (model(input_ids=ids).logits for model in (loaded, plain))
    assert loaded.dtype == torch.float32
    # Enough tokens for no kernel to run: what is left is the rounding of fp32.
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_a_folder_that_is_not_whole_is_refused(quantized_folder: Path) -> None:
    file = quantized_folder / "quantization.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "layers": description["layers"][1:]}))
    with pytest.raises(ModelError, match=r"the weight .* is not in its files"):
        load_quantized(quantized_folder)
    file.write_text(json.dumps({**description, "layers": [*description["layers"], "model.nothing"]}))
    with pytest.raises(ModelError, match="do not fit together"):
        load_quantized(quantized_folder)
    file.write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(ModelError, match="format 99; this version reads up to 1"):
        load_quantized(quantized_folder)
    file.unlink()
    with pytest.raises(ModelError, match="not the description of a quantized model"):
        load_quantized(quantized_folder)
