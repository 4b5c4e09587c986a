"""Made-up records, tiny tokenizers, and what a prepared row says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llm_finetune.data import PackedSequence, Prepared

Prepare = Callable[..., Prepared]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "seven",
    "green",
    "birds",
    "sang",
    "Über",
    "alles,",
    "naïve",
    "日本",
    "😀",
    "and",
    "42",
    "+",
    "1",
]


def byte_level(bos: bool = False, eos: str = "</s>", template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 400 tokens."""
    specials = ["<s>", eos, "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(dict.fromkeys(specials)), initial_alphabet=alphabet
    )
    backend.train_from_iterator(
        [" ".join(WORDS), "### Instruction:\n\n### Input:\n### Response:\n"] * 5, trainer
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        front = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), front])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def instructions(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Different records; every third has no input."""
    random = np.random.default_rng(seed)

    def words(most: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(1, most)).tolist())

    return [
        {"instruction": f"{words(6)} {i}?", "input": words(9) if i % 3 else "", "output": f"{words(30)}."}
        for i in range(count)
    ]


def write_json(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def trained_text(row: PackedSequence, tokenizer: Any) -> list[str]:
    """What each record of a row is trained on, as text."""
    labels = (segment.labels[segment.labels >= 0] for segment in row.samples)
    return [tokenizer.decode(kept.tolist(), clean_up_tokenization_spaces=False) for kept in labels]


def whole_text(row: PackedSequence, tokenizer: Any) -> list[str]:
    """Each record of a row as text."""
    ids = (segment.input_ids.tolist() for segment in row.samples)
    return [tokenizer.decode(kept, clean_up_tokenization_spaces=False) for kept in ids]
