"""What tests of several rooms share: tiny models of several architectures, and the folder of real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2] / "shared"
VOCABULARY = 96


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real records and a real pretrained model, where they stand beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout")
    return SHARED


def tiny_model(architecture: str, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
    """A model of a few thousand parameters with random weights, in fp32."""
    import torch
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    grouped = {"num_key_value_heads": 2}
    config = {
        "llama": lambda: transformers.LlamaConfig(**sizes, **grouped),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, **grouped),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **grouped, head_dim=8, sliding_window=16),
        "mistral": lambda: transformers.MistralConfig(**sizes, **grouped, sliding_window=16),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**sizes),
    }[architecture]()
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


ARCHITECTURES = ("llama", "qwen2", "gemma2", "mistral", "gpt_neox")

SENTENCES = (
    "The red fox runs over the hill.",
    "A small bird sings in the old tree.",
    "Rain falls on the quiet river all night.",
    "The baker opens his shop before the sun is up.",
)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of a few thousand parameters with a tokenizer of its own, as transformers saves them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=128
    )
    fast.save_pretrained(folder)
    tiny_model("llama", vocabulary=fast.vocab_size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty instruction records whose answers can be learned."""
    return write_records(tmp_path_factory.mktemp("data") / "records.jsonl", range(60))


def write_records(file: Path, numbers: range) -> Path:
    """One record for each number."""
    said = (f"{SENTENCES[number % 4]} {number}" for number in numbers)
    records = [{"instruction": "Say it again.", "input": text, "output": text} for text in said]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file
