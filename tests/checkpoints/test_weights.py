"""A checkpoint's weights come back bit for bit, whatever the files call them; else it is an error by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_model
from llm_finetune.checkpoints import compatibility, weights
from llm_finetune.errors import UserError
from llm_finetune.models.adapters import LoraPlan, add_adapters

SIZES: dict[str, Any] = {**tiny_model.SIZES, **tiny_model.GROUPED, **tiny_model.SPECIAL_IDS}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
SEES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def mixture(**options: Any) -> Any:
    return transformers.Qwen2MoeConfig(
        **SIZES, **EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=24, **options
    )


def deepseek() -> Any:
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    routed = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    sizes = {**SIZES, "num_key_value_heads": 4}
    return transformers.DeepseekV3Config(**sizes, **ranks, **routed, v_head_dim=8, moe_intermediate_size=16)


def seeing() -> Any:
    text = {**SIZES, "head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8}
    return transformers.Gemma3Config(text_config=text, vision_config=SEES, mm_tokens_per_image=4)


# One of each way in which files and model name the same weights.
NAMINGS: dict[str, Callable[[], Any]] = {
    "as the model": lambda: transformers.LlamaConfig(**SIZES),
    "tied": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "another head": lambda: transformers.GPTNeoXConfig(
        **{name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    ),
    "experts": lambda: transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "experts beside a shared one": mixture,
    "experts of another kind": lambda: transformers.OlmoeConfig(**SIZES, **EXPERTS),
    "experts in groups": deepseek,
    "text beside images": seeing,
}


def made(config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.mark.parametrize("config", NAMINGS.values(), ids=list(NAMINGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_weights_come_back(config: Callable[[], Any], dtype: torch.dtype, tmp_path: Path) -> None:
    trained, other = made(config(), 0).to(dtype), made(config(), 1).to(dtype)
    weights.save(trained, tmp_path)
    weights.load(other, tmp_path)
    found, expected = other.state_dict(), trained.state_dict()
    assert found.keys() == expected.keys()
    assert not [name for name, weight in expected.items() if not torch.equal(found[name], weight)]


@pytest.mark.parametrize(
    ("architecture", "dora"), [("gpt_neox", False), ("gpt_neox", True), ("mixtral", False)]
)
def test_an_adapter_comes_back_and_its_base_stays(architecture: str, dora: bool, tmp_path: Path) -> None:
    plan = LoraPlan(rank=2, alpha=4, dropout=0.0, target_modules=("all-linear",), dora=dora)
    one, other = (add_adapters(tiny_model.tiny_model(architecture), plan) for _ in range(2))
    for weight in weights.trained_weights(one).values():
        torch.nn.init.normal_(weight)
    weights.save(one, tmp_path)
    weights.load(other, tmp_path)
    found = other.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in one.state_dict().items())


def without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[max(tensors)]


def with_one_more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stranger"] = torch.zeros(3)


def with_another_value(tensors: dict[str, torch.Tensor]) -> None:
    tensors[max(tensors)].view(-1)[0] += 1


@pytest.mark.parametrize("change", [without_one, with_one_more, with_another_value])
@pytest.mark.parametrize("adapter", [False, True])
def test_what_is_missing_left_over_or_another_is_named(
    change: Callable[[Any], None], adapter: bool, tmp_path: Path
) -> None:
    model = tiny_model.tiny_model("llama")
    if adapter:
        model = add_adapters(model, LoraPlan(2, 4, 0.0, ("q_proj",)))
    weights.save(model, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    name = "stranger" if change is with_one_more else max(tensors)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=name.rpartition(".lora")[0] or name):
        weights.load(model, tmp_path)


@pytest.mark.parametrize(
    ("naming", "is_taken"), [("tied", True), ("another head", False), ("experts", False)]
)
def test_an_earlier_versions_checkpoint_is_taken_where_that_version_could_read_it(
    naming: str, is_taken: bool, tmp_path: Path
) -> None:
    model = made(NAMINGS[naming](), 0)
    weights.save(model, tmp_path)
    (tmp_path / weights.NAME).unlink()
    expected = compatibility.Expected(
        rows=1,
        epochs=1,
        max_steps=-1,
        may_stop_early=False,
        held=frozenset(weights.trained_weights(model)),
        tied=frozenset(model.all_tied_weights_keys),
        shapes=[],
    )
    wrong = compatibility.problem_of_weights(tmp_path, expected)
    assert (wrong is None) is is_taken
    assert is_taken or "went on with base weights" in str(wrong)
    assert json.loads((tmp_path / "config.json").read_text())
