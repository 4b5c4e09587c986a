"""Stacked experts: told where an adapter leaves them out, trained where asked for, merged and cut again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_model
from llm_finetune.errors import ModelError
from llm_finetune.export.merge import merge
from llm_finetune.generation.load import with_adapter
from llm_finetune.models import experts, loading
from llm_finetune.models.adapters import LoraPlan, add_adapters, set_base_model
from llm_finetune.models.merging import TunedModel
from llm_finetune.models.saving import save_weights

IDS = torch.arange(3, 51).view(2, 24)
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
SIZES: dict[str, Any] = {**tiny_model.SIZES, **tiny_model.GROUPED}


def config_of(kind: str) -> Any:
    import transformers

    if kind == "mixtral":
        return transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)
    return transformers.Qwen2MoeConfig(
        **SIZES,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    )


def plan(*modules: str, parameters: tuple[str, ...] = (), dropout: float = 0.0) -> LoraPlan:
    return LoraPlan(4, 8, dropout, modules, target_parameters=parameters)


def told(kind: str, wanted: LoraPlan) -> str | None:
    meta_model = loading.meta_model(config_of(kind), False)
    return experts.left_out(
        meta_model, add_adapters(loading.meta_model(config_of(kind), False), wanted), wanted
    )


def test_names_that_promise_more_than_they_train_are_told() -> None:
    said = told("qwen2_moe", plan("gate_proj", "up_proj", "down_proj"))
    assert said
    assert "leaves out routed experts" in said
    assert "mlp.experts.down_proj mlp.experts.gate_up_proj into loraTargetParameters" in said
    assert told("qwen2_moe", plan("all-linear"))
    assert not told("qwen2_moe", plan("q_proj", "v_proj"))
    assert not told("qwen2_moe", plan("gate_proj", "up_proj", "down_proj", parameters=EXPERTS))
    assert not told("mixtral", plan("all-linear"))


def test_names_of_no_parameter_and_plans_that_cannot_be_are_refused() -> None:
    meta_model = loading.meta_model(config_of("mixtral"), False)
    with pytest.raises(ModelError, match=r"'mlp\.experts\.gate_proj' names no parameter .*did you mean mlp"):
        experts.check_parameters(meta_model, ("mlp.experts.gate_proj",))
    with pytest.raises(ModelError, match=r"distributed\.train\.loraDropout: not with this adapter"):
        add_adapters(meta_model, plan("all-linear", dropout=0.1))


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize("modules", [("q_proj",), ("all-linear",)])
def test_what_is_trained_is_merged(
    kind: str, modules: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(tmp_path / "base")
    tuned = add_adapters(model, plan(*modules, parameters=EXPERTS)).eval()
    for weight in tuned.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.2)
    set_base_model(tuned, str(tmp_path / "base"), None)
    save_weights(tuned, tmp_path / "adapter")
    with torch.no_grad():
        expected = tuned(input_ids=IDS).logits
    with caplog.at_level(logging.WARNING):
        merge(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    for answering in (merged, *loads(tmp_path)):
        with torch.no_grad():
            torch.testing.assert_close(answering(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
    names = [set(base_names(tmp_path / name)) for name in ("base", "merged")]
    assert names[0] == names[1]


def test_what_the_files_hold_as_one_is_told_and_answers_beside_the_base(tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.for_model("hrm_text", **SIZES)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "base")
    meta_model = loading.meta_model(config, False)
    tuned = add_adapters(model, plan("q_proj")).eval()
    assert "self_attn.q_proj.weight as one with others" in str(experts.unmerged(meta_model, tuned))
    for weight in tuned.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.2)
    set_base_model(tuned, str(tmp_path / "base"), None)
    save_weights(tuned, tmp_path / "adapter")
    with torch.no_grad():
        expected = tuned(input_ids=IDS).logits
        beside = with_adapter(tmp_path / "base", tmp_path / "adapter", torch.float32, False)
        torch.testing.assert_close(beside(input_ids=IDS).logits, expected)
    with pytest.raises(ModelError, match=r"q_proj.*cannot be merged"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    o_proj = add_adapters(loading.meta_model(config, False), plan("o_proj"))
    assert experts.unmerged(meta_model, o_proj) is None


def loads(folder: Path) -> list[Any]:
    """As `chat` loads the adapter, and as a quantization reads it."""
    tuned = TunedModel(folder / "base", folder / "adapter")
    return [tuned.load_in(torch.float32), tuned.load()]


def base_names(folder: Path) -> list[str]:
    from llm_finetune.models.safetensors_io import StoredWeights

    return list(StoredWeights(folder))
