"""Weights that are stored as codes are read as the numbers they stand for by all, or by nobody."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_finetune.errors import ModelError
from llm_finetune.export.merge import merge
from llm_finetune.models import loading
from llm_finetune.models.merging import TunedModel
from tiny_model import tiny_model

BLOCK = (8, 16)


def fp8_folder(folder: Path, *, block: tuple[int, int] | None) -> Path:
    """A model with its linear layers in fp8."""
    tiny_model("llama").save_pretrained(folder)
    weights, coded = load_file(folder / "model.safetensors"), {}
    for name, weight in weights.items():
        coded[name] = weight
        if name.endswith("proj.weight"):
            rows, columns = block or weight.shape
            counts = weight.shape[0] // rows, weight.shape[1] // columns
            scales = torch.rand(counts, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.001
            each = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            coded[name] = (weight / each).clamp(-448, 448).to(torch.float8_e4m3fn)
            coded[f"{name}_scale_inv"] = scales if block else scales.reshape(1)
    save_file(coded, folder / "model.safetensors", metadata={"format": "pt"})
    described(folder, {"quant_method": "fp8", "weight_block_size": list(block) if block else None})
    return folder


def described(folder: Path, settings: dict[str, Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": settings}))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 43).view(1, 40)).logits.float()
    return found


@pytest.mark.parametrize("block", [BLOCK, None])
def test_fp8_is_the_same_to_training_to_merging_and_to_quantization(
    block: tuple[int, int] | None, tmp_path: Path
) -> None:
    folder = fp8_folder(tmp_path / "base", block=block)
    merge(folder, tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    assert not [name for name in load_file(tmp_path / "merged/model.safetensors") if "scale" in name]
    trained = logits(loading.load_weights(folder, torch.float32, False))
    for other in (TunedModel(folder).load(), loading.load_weights(tmp_path / "merged", torch.float32, False)):
        assert (logits(other) - trained).norm() <= 1e-5 * trained.norm()


METHODS = ["gptq", "awq", "bitsandbytes", "compressed-tensors", "mxfp4", "torchao", "fbgemm_fp8", "hqq", 4]


@pytest.mark.parametrize("method", METHODS)
def test_other_formats_are_refused_by_name(method: object, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    described(folder, {"quant_method": method})
    for read in (
        lambda: loading.load_config(folder, False),
        lambda: loading.load_weights(folder, torch.float32, False),
        lambda: TunedModel(folder),
    ):
        with pytest.raises(
            ModelError, match=rf"quantization_config: the weights are stored as {method} codes"
        ):
            read()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_codes_that_nothing_describes_are_refused(
    dtype: torch.dtype, model_folder: Path, tmp_path: Path
) -> None:
    """transformers would take them for numbers."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for read in (lambda: loading.load_weights(folder, torch.float32, False), lambda: TunedModel(folder)):
        with pytest.raises(ModelError, match=r"up_proj\.weight as codes"):
            read()


@pytest.mark.parametrize("block", [[16, 16], [8, 5], [8], "8", None])
def test_scales_of_other_blocks_are_refused(block: object, tmp_path: Path) -> None:
    """transformers counts the scales, and would read other blocks than were written."""
    folder = fp8_folder(tmp_path / "base", block=BLOCK)
    described(folder, {"quant_method": "fp8", "weight_block_size": block})
    for read in (lambda: loading.load_weights(folder, torch.float32, False), lambda: TunedModel(folder)):
        with pytest.raises(ModelError, match=r"weight_block_size|cannot be read"):
            read()
