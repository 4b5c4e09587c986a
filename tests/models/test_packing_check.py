"""A model that mixes the records of a row is found out before its weights are read, or before it trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cli_runner import assignments, run_here
from llm_finetune.errors import ModelError
from llm_finetune.models.packing_check import check_isolation, keeps_apart
from minimal_settings import PLAIN
from tiny_model import ARCHITECTURES, VOCABULARY, tiny_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_known_architectures_keep_records_apart(architecture: str, dtype: torch.dtype) -> None:
    check_isolation(tiny_model(architecture).to(dtype), VOCABULARY)


def test_a_model_that_ignores_positions_is_refused() -> None:
    class Leaky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("llama")

        def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **rest: Any) -> Any:
            return self.inner(input_ids=input_ids, **rest)

    with pytest.raises(ModelError, match=r"datasetConcatenation.*set it to false"):
        check_isolation(Leaky(), VOCABULARY)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Llama", True),
        ("Qwen3", True),
        ("Gemma2", True),
        ("GPTNeoX", True),
        ("GPT2", True),
        ("Mixtral", True),
        ("DeepseekV3", True),
        ("Falcon", False),
        ("Bloom", False),
        ("OPT", False),
        ("Mpt", False),
        ("Mamba", False),
        ("Jamba", False),
        ("GptOss", False),
    ],
)
def test_it_is_told_by_the_configuration_of_a_model_of_full_size(kind: str, expected: bool) -> None:
    config = getattr(transformers, f"{kind}Config")()
    assert keeps_apart(config, 1024, trust_remote_code=False) is expected


def test_attention_in_chunks_of_a_row_keeps_records_apart_within_one_alone() -> None:
    config = transformers.Llama4TextConfig(attention_chunk_size=512)
    assert keeps_apart(config, 512, trust_remote_code=False)
    assert not keeps_apart(config, 513, trust_remote_code=False)


def test_such_a_model_trains_with_a_record_a_row_after_one_warning(
    model_folder: Path,
    data_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "bloom"
    shutil.copytree(model_folder, base)
    config = transformers.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)
    transformers.BloomForCausalLM(config).save_pretrained(base)
    losses = {}
    for packed in (True, False):
        out = tmp_path / f"out-{packed}"
        values: dict[str, Any] = {
            **PLAIN,
            "modelNameOrPath": str(base),
            "train__dataFile": str(data_file),
            "train__outputDir": str(out),
            "train__loraTargetModules": "query_key_value",
            "train__datasetConcatenation": packed,
            "train__maxSteps": 3,
            "doEval": False,
        }
        outcome = run_here(capfd, monkeypatch, *assignments(**values))
        assert outcome.code == 0, outcome.text
        assert outcome.text.count("a model of type bloom lets records of one row see each other") == packed
        losses[packed] = json.loads((out / "train_history.json").read_text())
        for point in losses[packed]:
            point.pop("tokens_per_second")
    assert losses[True] == losses[False]
