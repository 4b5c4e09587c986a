"""Models and records small enough for tests: random weights, a few sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {"num_key_value_heads": 2}  # for architectures that know it
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = ("llama", "qwen2", "gemma2", "mistral", "gpt_neox")
SENTENCES = (
    "The red fox runs over the hill.",
    "A small bird sings in the old tree.",
    "Rain falls on the quiet river all night.",
    "The baker opens his shop before the sun is up.",
)


def tiny_model(architecture: str, seed: int = 0, vocabulary: int = VOCABULARY, **config: Any) -> Any:
    """A model of a few thousand parameters with random weights, in fp32.

    Args:
        config: what else its configuration says.
    """
    import torch
    import transformers

    sizes, grouped = {**SIZES, **SPECIAL_IDS, "vocab_size": vocabulary}, GROUPED
    made = {
        "llama": lambda: transformers.LlamaConfig(**sizes, **grouped),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, **grouped),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **grouped, head_dim=8, sliding_window=16),
        "mistral": lambda: transformers.MistralConfig(**sizes, **grouped, sliding_window=16),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**sizes),
        "gpt2": lambda: transformers.GPT2Config(**sizes),
        "mixtral": lambda: transformers.MixtralConfig(
            **sizes, **grouped, num_local_experts=4, num_experts_per_tok=2
        ),
    }[architecture]()
    for name, value in config.items():
        setattr(made, name, value)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(made).eval()


def write_records(file: Path, numbers: range) -> Path:
    """One record for each number."""
    said = (f"{SENTENCES[number % 4]} {number}" for number in numbers)
    records = [{"instruction": "Say it again.", "input": text, "output": text} for text in said]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file
