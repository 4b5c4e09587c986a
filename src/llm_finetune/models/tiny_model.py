"""A small model with random weights and another model's architecture, to try what only its code decides.

It has the layers, switches and kinds of attention that the configuration asks for, and widths of a few
numbers, so it is made in a moment, before a weight of the real one is read.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

HEADS, WIDTH = 4, 16
LAYERS = 8
# Each divides, or is a multiple of, what the others of its model need of it.
SIZES = {
    "vocab_size": 128,
    "hidden_size": HEADS * WIDTH,
    "intermediate_size": 64,
    "head_dim": WIDTH,
    "num_attention_heads": HEADS,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "rotary_dim": 8,
    "state_size": 8,
    "num_heads": 8,
    "mamba_num_heads": 8,
    "mamba_n_heads": 8,
    "mamba_head_dim": WIDTH,
    "mamba_d_head": WIDTH,
    "mamba_d_ssm": 2 * HEADS * WIDTH,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "max_position_embeddings": 128,
}


def twin(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """The small model. Raises whatever the model's own code raises at sizes that it was not made for."""
    import torch
    from transformers import AutoModelForCausalLM

    small = copy.deepcopy(config)
    for part in small.sub_configs:
        getattr(small, part).num_hidden_layers = 1  # what sees images takes no part
    _shrink(small.get_text_config(), config.get_text_config())
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            small, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # as wide as trained ones: else a layer adds next to nothing
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.25)
    return model


def _shrink(config: Any, large: Any) -> None:
    heads, layers = getattr(config, "num_attention_heads", None), large.num_hidden_layers
    per_layer = _per_layer(config, layers)
    config.num_hidden_layers = min(layers, max([LAYERS, *map(_to_all_kinds, per_layer.values())]))
    for name, values in per_layer.items():
        setattr(config, name, values[: config.num_hidden_layers])
    key_heads = getattr(config, "num_key_value_heads", None)
    for name, value in SIZES.items():
        if isinstance(getattr(config, name, None), int):
            with suppress(AttributeError):  # one that is computed from others
                setattr(config, name, min(value, getattr(config, name)))
    if hasattr(config, "qk_rope_head_dim"):
        config.head_dim = config.qk_rope_head_dim  # latent attention: the part that is turned
    if isinstance(key_heads, int):
        config.num_key_value_heads = HEADS if key_heads == heads else min(key_heads, HEADS // 2)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, 0)
    rope = getattr(config, "rope_parameters", None)
    if rope and rope.get("rope_type") not in (None, "default"):
        config.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}


def _per_layer(config: Any, layers: int) -> dict[str, list[Any]]:
    values = vars(config).items()
    return {name: value for name, value in values if isinstance(value, list) and len(value) == layers}


def _to_all_kinds(values: list[Any]) -> int:
    """How many of the first layers show every kind that there is."""
    return max(values.index(value) for value in values) + 1
