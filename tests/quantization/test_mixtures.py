"""Mixtures of experts: every expert is quantized, from a whole model and from what an adapter trained."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny_model
from llm_finetune.export.merge import merge
from llm_finetune.models.adapters import LoraPlan, add_adapters, set_base_model
from llm_finetune.models.merging import TunedModel, find_tuned
from llm_finetune.models.safetensors_io import StoredWeights
from llm_finetune.models.saving import save_weights
from llm_finetune.models.unstacked_experts import unstack
from llm_finetune.quantization.packed_weights import Scheme
from llm_finetune.quantization.quantize import check_quantization, quantize
from llm_finetune.quantization.quantized_model import load_quantized
from llm_finetune.quantization.rtn import round_to_nearest
from minimal_settings import quantize_settings

IDS = torch.arange(3, 51).view(2, 24)
TEXTS = [list(range(3 + start, 27 + start)) for start in range(0, 64, 4)]
STACKED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
SIZES: dict[str, Any] = {**tiny_model.SIZES, **tiny_model.GROUPED, "head_dim": 8}
FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
STATES = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8}
KINDS = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": FEW,
    "olmoe": FEW,
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},  # transposed, with biases
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "nemotron_h": {  # without gates
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        **STATES,
        "layers_block_type": ["attention", "moe"],
    },
}


def mixture(kind: str) -> Any:
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **KINDS[kind]})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def answer(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits.float()


@pytest.mark.parametrize("kind", KINDS)
def test_experts_apart_answer_as_stacked_ones_do(kind: str) -> None:
    model = mixture(kind)
    expected, stacked = answer(model), dict(model.named_parameters())
    stacks = unstack(model)
    apart = dict(model.named_parameters())
    assert stacks
    assert not any(weight.dim() == 3 and ".experts." in name for name, weight in apart.items())
    for name, stack in stacks.items():
        for part, value in stack.cut(stacked[name]):
            assert torch.equal(apart[part], value)
            assert apart[part].untyped_storage().data_ptr() == stacked[name].untyped_storage().data_ptr()
    torch.testing.assert_close(answer(model), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answer(copy.deepcopy(model)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_is_rounded_as_a_linear_layer_is(kind: str, tmp_path: Path) -> None:
    model = mixture(kind)
    model.save_pretrained(tmp_path / "model")
    quantize(TunedModel(tmp_path / "model"), quantize_settings(tmp_path / "quantized", "RTN"), [])
    layers = json.loads((tmp_path / "quantized/quantization.json").read_text())["layers"]
    assert sum(".experts." in layer for layer in layers) == 8 * sum(
        name.endswith("experts.down_proj") for name, _ in model.named_parameters()
    )
    unstack(model)
    for path in layers:
        linear = model.get_submodule(path)
        rounded = round_to_nearest(linear.weight.data, Scheme(4, 16, symmetric=True))
        linear.weight.data = rounded.dequantize(torch.float32)
    found = answer(load_quantized(tmp_path / "quantized", dtype=torch.float32))
    torch.testing.assert_close(found, answer(model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algorithm", ["GPTQ", "AWQ", "TEQ"])
def test_calibrating_brings_a_mixture_nearer_to_what_it_was(algorithm: str, tmp_path: Path) -> None:
    model = tiny_model.tiny_model("mixtral", num_hidden_layers=2)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(tmp_path / "model")
    error = {}
    for asked in ("RTN", algorithm):
        quantize(TunedModel(tmp_path / "model"), quantize_settings(tmp_path / asked, asked), TEXTS)
        found = load_quantized(tmp_path / asked, dtype=torch.float32)
        with torch.no_grad():
            texts = torch.tensor(TEXTS)
            off = found(input_ids=texts).logits - model(input_ids=texts).logits
        error[asked] = float(off.norm())
    assert error[algorithm] < error["RTN"]


def test_an_expert_that_no_text_reaches_is_rounded(tmp_path: Path) -> None:
    model = tiny_model.tiny_model("mixtral")
    for layer in model.model.layers:
        layer.mlp.gate.weight.data[3] = -1e4 * layer.mlp.gate.weight.data[:3].abs().sum(0)
        layer.post_attention_layernorm.weight.data.fill_(1)
    model.save_pretrained(tmp_path / "model")
    quantize(TunedModel(tmp_path / "model"), quantize_settings(tmp_path / "quantized", "GPTQ"), TEXTS[:2])
    held = set(StoredWeights(tmp_path / "quantized"))
    assert {f"model.layers.1.mlp.experts.down_proj.{expert}.codes" for expert in range(4)} <= held


@pytest.mark.parametrize("algorithm", ["RTN", "GPTQ"])
def test_what_an_adapter_trained_of_experts_is_quantized_as_the_merged_model_is(
    algorithm: str, tmp_path: Path
) -> None:
    model = mixture("mixtral")
    model.save_pretrained(tmp_path / "base")
    tuned = add_adapters(model, LoraPlan(4, 8, 0.0, ("all-linear",), target_parameters=STACKED))
    for weight in tuned.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.2)
    set_base_model(tuned, str(tmp_path / "base"), None)
    save_weights(tuned, tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    found = []
    for name in ("adapter", "merged"):
        output = tmp_path / f"{name}-quantized"
        quantize(find_tuned(tmp_path / name), quantize_settings(output, algorithm), TEXTS)
        found.append(dict(StoredWeights(output).mapped()))
    assert found[0].keys() == found[1].keys()
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name]), name


def test_a_folder_whose_experts_were_left_stacked_is_read_as_it_is(tmp_path: Path) -> None:
    model = mixture("gpt_oss")
    model.save_pretrained(tmp_path / "model")
    quantize(TunedModel(tmp_path / "model"), quantize_settings(tmp_path / "new", "RTN"), [])
    state = {
        name: weight for name, weight in StoredWeights(tmp_path / "new").mapped() if ".experts." not in name
    }
    state |= {name: weight for name, weight in model.state_dict().items() if ".experts." in name}
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_bytes((tmp_path / "new/config.json").read_bytes())
    said = json.loads((tmp_path / "new/quantization.json").read_text())
    said["layers"] = [layer for layer in said["layers"] if ".experts." not in layer]
    (old / "quantization.json").write_text(json.dumps(said))
    from safetensors.torch import save_file

    save_file({name: weight.contiguous() for name, weight in state.items()}, old / "model.safetensors")
    loaded = load_quantized(old, dtype=torch.float32)
    assert loaded.model.layers[0].mlp.experts.down_proj.dim() == 3
    assert answer(loaded).isfinite().all()


def test_experts_that_stay_as_they_are_are_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    llama4 = {"intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 24}
    config = transformers.Llama4TextConfig(**SIZES, **llama4)
    with caplog.at_level(logging.WARNING):
        check_quantization(quantize_settings(tmp_path / "out", "RTN"), config, tmp_path / "model")
    (said,) = warnings_in(caplog)
    assert "feed_forward.experts.down_proj" in said
    assert "% of its weights are not quantized" in said
    caplog.clear()
    check_quantization(
        quantize_settings(tmp_path / "out", "RTN"), mixture("mixtral").config, tmp_path / "model"
    )
    assert not warnings_in(caplog)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
