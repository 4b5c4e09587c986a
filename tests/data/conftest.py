"""What the data tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up import CHATML, Prepare, byte_level, write_json
from transformers import PreTrainedTokenizerFast

from llm_finetune.data import Prepared, PrepareSpec, Source, open_prepared, prepare


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(bos=True)


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(eos="<|im_end|>", template=CHATML)


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Prepare:
    """Prepare rows or a file, by default without validation, and open the result."""

    def run(data: Path | Sequence[Any], *, using: Any = None, **plan: Any) -> Prepared:
        path = data if isinstance(data, Path) else write_json(tmp_path / "records.json", data)
        arguments = {"training": (Source(files=path),), "validation_share": 0.0, "max_length": 256, **plan}
        arguments.setdefault("prompt_with_input", "Answer with the input.")
        arguments.setdefault("prompt_without_input", "Answer.")
        return open_prepared(prepare(PrepareSpec(**arguments), using or tokenizer, tmp_path / "cache"))

    return run
