"""A merged folder answers as the adapter on its base does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_finetune.cli import main
from llm_finetune.errors import ModelError, OutputError
from llm_finetune.export.merge import merge
from tiny_model import VOCABULARY, tiny_model

IDS = torch.arange(3, 51).view(2, 24)


def adapted(
    folder: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32, **lora: Any
) -> torch.Tensor:
    """Writes a base and an adapter that changes it visibly; what the two say together."""
    torch.manual_seed(0)
    base = tiny_model(architecture).to(dtype)
    base.save_pretrained(folder / "base")
    options: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **lora}
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    tuned.peft_config["default"].base_model_name_or_path = str(folder / "base")
    tuned.save_pretrained(folder / "adapter")
    with torch.no_grad():
        logits: torch.Tensor = tuned(input_ids=IDS).logits.float()
    return logits


def logits_of(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """As transformers alone loads it."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return logits


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {".*mlp.*": 2}, "alpha_pattern": {".*mlp.*": 32}},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=lambda lora: " ".join(lora) or "plain",
)
def test_the_merged_model_says_what_the_adapter_says(
    tmp_path: Path, architecture: str, lora: dict[str, Any]
) -> None:
    expected = adapted(tmp_path, architecture, **lora)
    assert distance(expected, logits_of(tmp_path / "base")) > 0.05
    merge(tmp_path / "adapter", tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), expected) < 1e-5


def test_a_bf16_base_stays_bf16(tmp_path: Path) -> None:
    expected = adapted(tmp_path, dtype=torch.bfloat16)
    merge(tmp_path / "adapter", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert model.dtype == torch.bfloat16
    # Each of a bf16 model's products is off by some 0.3 %; another rounding of the weights adds as much.
    assert distance(logits_of(tmp_path / "merged", torch.bfloat16), expected) < 0.04


@pytest.mark.parametrize("target", [["lm_head", "q_proj"], ["embed_tokens", "q_proj"], ["q_proj"]])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_tied_embeddings_part_only_where_the_adapter_changes_one(tmp_path: Path, target: list[str]) -> None:
    expected = adapted(tmp_path, "gemma2", target_modules=target)
    merge(tmp_path / "adapter", tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is (target == ["q_proj"])
    assert distance(logits_of(tmp_path / "merged"), expected) < 1e-5


def test_the_folder_brings_tokenizer_template_and_prompt(tmp_path: Path, model_folder: Path) -> None:
    adapted(tmp_path)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (tmp_path / "adapter" / "prompt.json").write_text('{"format": "chat"}')
    merge(tmp_path / "adapter", tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "the fox"}], tokenize=False)
    assert asked == "the fox"
    assert json.loads((tmp_path / "merged" / "prompt_config.json").read_text()) == {"format": "chat"}


def test_shards_together_are_the_model(tmp_path: Path) -> None:
    expected = adapted(tmp_path)
    size = merge(tmp_path / "adapter", tmp_path / "merged", shard_bytes=20_000)
    files = sorted((tmp_path / "merged").glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 30_000 for file in files)
    assert 0 <= sum(file.stat().st_size for file in files) - size < 4096 * len(files)
    assert distance(logits_of(tmp_path / "merged"), expected) < 1e-5


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    adapted(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"already holds notes\.txt"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    assert [file.name for file in (tmp_path / "merged").iterdir()] == ["notes.txt"]


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    adapted(tmp_path)
    other = get_peft_model(tiny_model("llama"), IA3Config(task_type="CAUSAL_LM"))
    other.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    other.save_pretrained(tmp_path / "ia3")
    with pytest.raises(ModelError, match="an adapter of kind IA3; only LoRA"):
        merge(tmp_path / "ia3", tmp_path / "merged")
    adapted(tmp_path / "wide")
    tiny_model("gpt_neox").save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="does not fit"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    assert not list(tmp_path.glob("*merged*"))


def test_an_adapter_with_weights_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    with pytest.raises(ModelError, match=r"does not fit .* in one of them alone, first .*lora_A"):
        merge(tmp_path / "adapter", tmp_path / "merged")


def test_the_command_merges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = adapted(tmp_path)
    command = ["llm-finetune", "merge", str(tmp_path / "adapter"), str(tmp_path / "merged")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exited:
        main.main()
    assert exited.value.code == 0
    assert "MB of weights" in capsys.readouterr().out
    assert distance(logits_of(tmp_path / "merged"), expected) < 1e-5


MEASURE = """
import sys
from pathlib import Path
import peft, transformers.models.llama.modeling_llama
from llm_finetune.export.merge import merge

def resident(now_or_peak):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(now_or_peak)).split()[1]) * 1024

merge(Path(sys.argv[1], "small", "adapter"), Path(sys.argv[1], "small", "merged"))
before = resident("VmRSS")
merge(Path(sys.argv[1], "adapter"), Path(sys.argv[1], "merged"), shard_bytes=20_000_000)
print(resident("VmHWM") - before)
"""


def test_merging_keeps_less_than_the_model_in_memory(tmp_path: Path) -> None:
    """A model of 115 MB, merged by a process that has merged before and so has loaded all it needs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    adapted(tmp_path / "small")
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 16, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes)).bfloat16()
    model.save_pretrained(tmp_path / "base")
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    tuned.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "adapter")
    size = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert size > 100_000_000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True, env=environment
    )
    assert int(done.stdout) < size
