"""Whatever a folder holds, one call loads it, or says what is wrong with it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_finetune.errors import ModelError
from llm_finetune.generation import load as model_folders
from llm_finetune.generation.load import load_folder
from tiny_model import tiny_model

IDS = torch.tensor([[5, 40, 17, 60]])


@pytest.fixture(scope="module")
def adapter_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    make_adapter(model_folder, folder, target_modules=["q_proj", "v_proj"])
    return folder


def make_adapter(base: Path, folder: Path, **config: Any) -> None:
    """An adapter with random weights, as peft saves it, with its tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **config)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


@pytest.fixture
def adapter(adapter_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def change_config(adapter: Path, **values: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_plain_folder(model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = load_folder(model_folder)
    assert (loaded.kind, loaded.end_ids, loaded.model.training) == ("plain", {2}, False)
    assert loaded.tokenizer.eos_token == "</s>"
    assert torch.equal(logits(loaded.model), logits(AutoModelForCausalLM.from_pretrained(model_folder)))


def test_an_adapter_brings_its_base(adapter: Path, model_folder: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    loaded = load_folder(adapter)
    assert (loaded.kind, loaded.end_ids, loaded.model.training) == ("adapter", {2}, False)
    expected = logits(AutoPeftModelForCausalLM.from_pretrained(adapter))
    torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(loaded.model), logits(load_folder(model_folder).model), atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
    ],
)
def test_adapters_of_all_kinds(model_folder: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    from peft import AutoPeftModelForCausalLM

    make_adapter(model_folder, tmp_path, **config)
    expected = logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path))
    loaded = load_folder(tmp_path).model
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)
    # Worked into the weights: it answers by the same layers as its base.
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": "all-linear", "use_dora": True, "use_rslora": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 17]},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {".*v_proj": 2}, "bias": "all"},
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_what_answers_is_what_merge_writes_and_what_peft_says(
    architecture: str, model_folder: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    from peft import AutoPeftModelForCausalLM

    from llm_finetune.export.merge import merge

    base = tmp_path / "base"
    vocabulary = json.loads((model_folder / "config.json").read_text())["vocab_size"] + 8
    tiny_model(architecture, vocabulary=vocabulary, tie_word_embeddings=True).save_pretrained(base)
    for file in model_folder.glob("tokenizer*"):
        shutil.copy(file, base)
    make_adapter(base, tmp_path / "adapter", **config)
    found = logits(load_folder(tmp_path / "adapter").model)
    with torch.no_grad():
        expected = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if "trainable_token_indices" in config:
        with pytest.raises(ModelError, match="trainable_token_indices, which cannot be merged"):
            merge(tmp_path / "adapter", tmp_path / "merged")
        return
    merge(tmp_path / "adapter", tmp_path / "merged")
    assert torch.equal(found, logits(load_folder(tmp_path / "merged").model))


ABSURD: dict[str, tuple[dict[str, Any], str]] = {
    "a slow pattern": ({"target_modules": "(([a-z0-9._])+)+Q"}, "takes more than 3 seconds"),
    "a slow pattern of ranks": ({"rank_pattern": {"(([a-z0-9._])+)+Q": 4}}, "takes more than 3 seconds"),
    "no pattern": ({"target_modules": "(q_proj"}, "found an invalid pattern"),
    "iterations": ({"init_lora_weights": "pissa_niter_1000000"}, "found '1000000' iterations"),
    "layers": ({"layer_replication": [[0, 2]] * 20000}, "makes more than 1,000 layers"),
    "no number": ({"lora_alpha": float("nan")}, "lora_alpha: found nan"),
    "at times": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "a text": ({"r": "8"}, "r: found '8'"),
    "a number": ({"target_modules": 5}, "target_modules.str: found 5"),
    "a rank": ({"r": 10**9}, "r: found 1000000000"),
}


@pytest.mark.parametrize(("config", "message"), ABSURD.values(), ids=list(ABSURD))
def test_a_configuration_that_cannot_be_meant_is_refused(
    adapter: Path, config: dict[str, Any], message: str
) -> None:
    from llm_finetune.models.merging import find_tuned

    change_config(adapter, **config)
    for load in (load_folder, find_tuned):
        with pytest.raises(ModelError, match=re.escape(message)):
            load(adapter)


def test_an_adapter_without_a_tokenizer_takes_that_of_its_base(adapter: Path) -> None:
    for file in adapter.glob("tokenizer*"):
        file.unlink()
    assert load_folder(adapter).tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_no_model_answers_less_exactly_than_its_files_say(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: torch.dtype, bf16: bool
) -> None:
    monkeypatch.setattr(model_folders, "has_bf16", lambda: bf16)
    base = tmp_path / "base"
    named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    shutil.copytree(named, base)
    file = base / "model.safetensors"
    save_file({name: weight.to(stored) for name, weight in load_file(file).items()}, file, {"format": "pt"})
    change_config(adapter, base_model_name_or_path=str(base))
    expected = torch.bfloat16 if bf16 and stored != torch.float32 else torch.float32
    for folder in (adapter, base):
        assert load_folder(folder).model.get_input_embeddings().weight.dtype == expected


def test_all_ends_of_the_generation_config_count(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert load_folder(folder).end_ids == {2, 7, 9}


def lose_the_folder(adapter: Path) -> None:
    shutil.rmtree(adapter)


def empty_the_folder(adapter: Path) -> None:
    for file in adapter.iterdir():
        file.unlink()
    (adapter / "notes.txt").write_text("")


def move_the_base(adapter: Path) -> None:
    change_config(adapter, base_model_name_or_path="/somewhere/else/base")


def name_no_base(adapter: Path) -> None:
    change_config(adapter, base_model_name_or_path=None)


def cut_the_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"r": ')


def lose_the_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def cut_the_weights(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def lose_one_weight(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file)


def take_a_base_of_other_shapes(adapter: Path) -> None:
    base = adapter.parent / "other"
    tiny_model("qwen2").save_pretrained(base)
    change_config(adapter, base_model_name_or_path=str(base), r=4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_the_folder, "no such folder"),
        (empty_the_folder, r"no model in this folder; expected config\.json.*found notes\.txt"),
        (move_the_base, r"adapter_config\.json, base_model_name_or_path: no folder /somewhere/else/base"),
        (name_no_base, "base_model_name_or_path: found None; write"),
        (cut_the_config, r"adapter_config\.json cannot be read"),
        (lose_the_weights, r"no adapter_model\.safetensors"),
        (cut_the_weights, "the adapter cannot be read, or does not fit"),
        (lose_one_weight, "does not fit its base model: 1 weights are"),
        (take_a_base_of_other_shapes, "does not fit its base model"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(
    adapter: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(adapter)
    with pytest.raises(ModelError, match=message) as error:
        load_folder(adapter)
    assert len(error.value.problems) == 1
    assert "\n" not in error.value.problems[0]
