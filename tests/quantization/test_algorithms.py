"""What each algorithm makes of a real model, judged on texts like those that it saw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_finetune.config import QuantizeSettings, load
from llm_finetune.errors import ModelError
from llm_finetune.models.merging import TunedModel
from llm_finetune.quantization.quantize import quantize
from tiny_model import tiny_model

Texts = list[list[int]]


def settings_for(output: Path, **quantize: Any) -> QuantizeSettings:
    values = {"outputDir": output, "woqBits": 4, "woqGroupSize": 32, **quantize}
    return load(
        [], [], [f"distributed.quantize.{key}={value}" for key, value in values.items()], []
    ).settings.quantize


def perplexity(model: Any, texts: Texts) -> float:
    with torch.no_grad():
        losses = [
            model(input_ids=ids, labels=ids).loss.item() for ids in map(torch.tensor, [[t] for t in texts])
        ]
    return math.exp(sum(losses) / len(losses))


@pytest.fixture(scope="module")
def stories(shared: Path) -> tuple[Path, float, Texts, Texts]:
    """A model that tells stories, its perplexity, stories to judge by, and others to calibrate on."""
    folder = shared / "models" / "stories260K"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(0)
    told = model.generate(
        torch.ones(24, 1, dtype=torch.long), do_sample=True, max_new_tokens=120, pad_token_id=0
    )
    texts = told.tolist()
    return folder, perplexity(model, texts[:16]), texts[:16], texts[16:]


def cost(stories: Any, output: Path, **settings: Any) -> float:
    """Perplexity of the quantized model over that of the model."""
    folder, before, judged, seen = stories
    result = quantize(
        TunedModel(folder), settings_for(output, **settings), seen, lambda model: perplexity(model, judged)
    )
    assert result.perplexity
    return result.perplexity / before


# Of a model with 260,000 weights each counts: rounding to 4 bits costs one of a billion a tenth of this.
@pytest.mark.parametrize(
    ("bits", "group", "scheme", "at_most"),
    [(8, -1, "sym", 1.01), (4, 32, "asym", 1.15), (4, 32, "sym", 1.25)],
)
def test_rounding_to_nearest_costs_little(
    stories: Any, tmp_path: Path, bits: int, group: int, scheme: str, at_most: float
) -> None:
    settings = {"woqAlgo": "RTN", "woqBits": bits, "woqGroupSize": group, "woqScheme": scheme}
    assert cost(stories, tmp_path / "quantized", **settings) < at_most


@pytest.mark.parametrize("algorithm", ["GPTQ", "AWQ", "TEQ"])
def test_an_algorithm_that_sees_texts_costs_less_than_rounding(
    stories: Any, tmp_path: Path, algorithm: str
) -> None:
    rounded = cost(stories, tmp_path / "rounded", woqAlgo="RTN")
    assert cost(stories, tmp_path / "quantized", woqAlgo=algorithm) < rounded


@pytest.mark.parametrize("algorithm", ["GPTQ", "AWQ", "TEQ"])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox"])
def test_eight_bits_leave_other_architectures_as_they_are(
    tmp_path: Path, algorithm: str, architecture: str
) -> None:
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path / "model")
    texts = torch.randint(3, 90, (4, 24), generator=torch.Generator().manual_seed(0))

    def distance(quantized: Any) -> float:
        with torch.no_grad():
            found, expected = (one(input_ids=texts).logits.float() for one in (quantized, model))
        return float((found - expected).norm() / expected.norm())

    settings = settings_for(tmp_path / "quantized", woqAlgo=algorithm, woqBits=8, woqGroupSize=16)
    result = quantize(TunedModel(tmp_path / "model"), settings, texts.tolist(), distance)
    assert result.perplexity is not None
    assert result.perplexity < 0.03


@pytest.mark.parametrize("algorithm", ["AWQ", "TEQ"])
def test_norms_that_cannot_pass_a_scale_on_are_found_out(tmp_path: Path, algorithm: str) -> None:
    """Gemma's norms multiply by 1 more than their weight: dividing the weight would change the model."""
    tiny_model("gemma2").save_pretrained(tmp_path / "model")
    settings = settings_for(tmp_path / "quantized", woqAlgo=algorithm, woqGroupSize=16)
    with pytest.raises(ModelError, match=f"{algorithm}: no norm of .*gemma2 model.*write GPTQ or RTN"):
        quantize(TunedModel(tmp_path / "model"), settings, [[5, 6, 7, 8, 9, 10]])
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
