"""Made-up records, and tokenizers that are trained in a moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_finetune.data import Prepared, PreparePlan, Row, Source, open_prepared, prepare
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "the cat sat on a mat while seven green birds sang Über alles, naïve 日本 😀 and 42 + 1".split()


def byte_level(bos: bool = False, eos: str = "</s>", template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 400 tokens."""
    specials = ["<s>", eos, "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(dict.fromkeys(specials)), initial_alphabet=alphabet)
    backend.train_from_iterator([" ".join(WORDS), "### Instruction:\n\n### Input:\n### Response:\n"] * 5, trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        front = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), front])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(bos=True)


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(eos="<|im_end|>", template=CHATML)


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


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Prepare:
    """Prepare rows or a file, by default without validation, and open the result."""

    def run(data: Path | Sequence[Any], *, using: Any = None, **plan: Any) -> Prepared:
        path = data if isinstance(data, Path) else write_json(tmp_path / "records.json", data)
        arguments = {"training": (Source(files=path),), "validation_share": 0.0, "max_length": 256, **plan}
        arguments.setdefault("prompt_with_input", "Answer with the input.")
        arguments.setdefault("prompt_without_input", "Answer.")
        return open_prepared(prepare(PreparePlan(**arguments), using or tokenizer, tmp_path / "cache"))

    return run


def trained_text(row: Row, tokenizer: Any) -> list[str]:
    """What each record of a row is trained on, as text."""
    labels = (segment.labels[segment.labels >= 0] for segment in row.segments)
    return [tokenizer.decode(kept.tolist(), clean_up_tokenization_spaces=False) for kept in labels]


def whole_text(row: Row, tokenizer: Any) -> list[str]:
    """Each record of a row as text."""
    ids = (segment.input_ids.tolist() for segment in row.segments)
    return [tokenizer.decode(kept, clean_up_tokenization_spaces=False) for kept in ids]
