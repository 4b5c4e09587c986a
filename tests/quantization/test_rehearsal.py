"""What a small twin says of an architecture before the training is what the quantization says behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny_model
from llm_finetune.config import QuantizeSettings
from llm_finetune.errors import ModelError
from llm_finetune.generation.decoding import decode
from llm_finetune.models import loading
from llm_finetune.models.merging import TunedModel, absent_weights
from llm_finetune.quantization.quantize import check_quantization, check_weights, quantize
from llm_finetune.quantization.quantized_model import is_linear, load_quantized
from minimal_settings import quantize_settings

IDS = tiny_model.SPECIAL_IDS
SIZES: dict[str, Any] = {**tiny_model.SIZES, **IDS}
GROUPED = {**SIZES, **tiny_model.GROUPED}
NAMED = {**IDS, "vocab_size": tiny_model.VOCABULARY}
GPT2 = {**NAMED, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
MAMBA = {**NAMED, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
LLAMA4 = {"intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 2, "attention_chunk_size": 24}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8, sliding_window=16),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED),
    "falcon": lambda: transformers.FalconConfig(**SIZES),  # its layers derive from Linear, and are such
    "llama4": lambda: transformers.Llama4TextConfig(**GROUPED, **LLAMA4),  # its routers too, and are not
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "gpt_oss": lambda: transformers.GptOssConfig(**GROUPED, head_dim=8, num_local_experts=4),
    "hrm_text": lambda: transformers.AutoConfig.for_model("hrm_text", **GROUPED),  # cut from fused weights
    "mamba": lambda: transformers.MambaConfig(**MAMBA),
}
CANNOT = {("gemma2", "AWQ"), ("gpt2", "AWQ"), ("olmo2", "AWQ")}


def saved(architecture: str, folder: Path) -> Path:
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(MODELS[architecture]()).save_pretrained(folder)
    return folder


def check_all(absent: list[str], folder: Path, settings: QuantizeSettings, config: Any) -> None:
    """What the dry run looks at."""
    check_weights(absent, folder)
    check_quantization(settings, config, folder.with_name("out"))


@pytest.mark.parametrize("algorithm", ["RTN", "GPTQ", "AWQ"])
@pytest.mark.parametrize("architecture", [name for name in MODELS if name != "mamba"])
def test_the_word_before_the_training_is_the_word_behind_it(
    architecture: str, algorithm: str, tmp_path: Path
) -> None:
    folder = saved(architecture, tmp_path / "model")
    settings = quantize_settings(tmp_path / "quantized", algorithm)
    meta_model = TunedModel(folder).meta_model()
    absent = absent_weights(meta_model, TunedModel(folder).stored)
    assert bool(absent) == bool(absent_weights(meta_model, None))  # what is told of a model yet to download
    texts = [list(range(3 + start, 19 + start)) for start in (0, 20, 40)]
    if absent or (architecture, algorithm) in CANNOT:
        with pytest.raises(ModelError):
            check_all(absent, folder, settings, meta_model.config)
        with pytest.raises(ModelError):
            quantize(TunedModel(folder), settings, texts)
        return
    check_all(absent, folder, settings, meta_model.config)
    quantize(TunedModel(folder), settings, texts)
    steps = decode(load_quantized(tmp_path / "quantized"), [[1, 5, 9], [3]], max_new_tokens=2)
    assert all(token for step in steps for token in step if token)


def test_layers_whose_weights_are_looked_at_are_refused(tmp_path: Path) -> None:
    config = TunedModel(saved("mamba", tmp_path / "model")).config
    with pytest.raises(ModelError, match="a mamba model cannot be quantized"):
        check_quantization(quantize_settings(tmp_path / "quantized", "RTN"), config, tmp_path / "out")


def test_a_router_that_derives_from_a_linear_layer_is_none() -> None:
    model = loading.meta_model(MODELS["llama4"](), False)
    assert not any(is_linear(module) for path, module in model.named_modules() if path.endswith("router"))
    assert is_linear(loading.meta_model(MODELS["falcon"](), False).transformer.h[0].mlp.dense_h_to_4h)
