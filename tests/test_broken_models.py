"""Models, adapters and machines that cannot do what the values say: one clear error each, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_runner import assignments, run_here


def edit_json(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def without_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def no_numbers(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, file, metadata={"format": "pt"})


def twice(folder: Path) -> None:
    """An index of other files beside the whole: transformers reads the one, this project the other."""
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    weight_map = dict.fromkeys(load_file(folder / "other.safetensors"), "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def link_to_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("blobs/gone")


def own_code(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("raise SystemExit('this code ran')")
    edit_json(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.OwnModel"},
    )


Break = Callable[[Path], object]

BROKEN: list[tuple[str, Break, dict[str, Any], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), {}, "no config.json in this model folder"),
    ("config is no JSON", lambda f: (f / "config.json").write_text("{"), {}, "config.json"),
    ("an adapter for a base", adapter_only, {}, "an adapter is not a base model: name its base"),
    ("unknown type", lambda f: edit_json(f / "config.json", model_type="nonsense"), {}, "nonsense"),
    ("no language model", lambda f: edit_json(f / "config.json", model_type="vit"), {}, "not a causal"),
    ("code of its own", own_code, {}, "distributed.trustRemoteCode"),
    (
        "no weights",
        lambda f: (f / "model.safetensors").unlink(),
        {},
        "no weights; expected model.safe",
    ),
    ("pickled weights", pickled, {}, "only pickled weights"),
    ("weights twice", twice, {}, "both model.safetensors and model.safetensors.index.json"),
    ("half the weights", lambda f: cut_in_half(f / "model.safetensors"), {}, "the weights cannot be read"),
    ("a weight is missing", without_weight, {}, "model.layers.1.mlp.up_proj.weight"),
    ("a link to nothing", link_to_nothing, {}, "model.safetensors: a link that leads nowhere"),
    ("no numbers", no_numbers, {}, "the base model's outputs are NaN or infinite"),
    ("list", lambda f: (f / "generation_config.json").write_text("[]"), {}, "cannot be read: 'list' object"),
    ("odd end", lambda f: edit_json(f / "generation_config.json", eos_token_id="y"), {}, "found 'y', exp"),
    (
        "quantized",
        lambda f: edit_json(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        {},
        "quantization_config: the weights are stored as gptq codes",
    ),
    ("other shapes", lambda f: edit_json(f / "config.json", intermediate_size=64), {}, "different models"),
    ("dropout", lambda f: edit_json(f / "config.json", attention_dropout=-1), {}, "a number from 0 to 1"),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), {}, "tokenizer"),
    ("half a tokenizer", lambda f: cut_in_half(f / "tokenizer.json"), {}, "tokenizer"),
    ("no end", lambda f: edit_json(f / "tokenizer_config.json", eos_token=None), {}, "no end-of-sequence"),
    ("small embedding", lambda f: edit_json(f / "config.json", vocab_size=64), {}, "do not belong together"),
    ("context", lambda f: None, {"train__maxSeqLength": 129}, "above the model's context of 128 tokens"),
    ("targets", lambda f: None, {"train__loraTargetModules": "q_proj vproj"}, "did you mean v_proj"),
    ("rank", lambda f: None, {"train__loraRank": 10**9}, "not enough memory: training takes about"),
    ("chat format", lambda f: None, {"train__promptFormat": "chat"}, "no chat template"),
    ("ccl", lambda f: None, {"train__ddpBackend": "ccl", "processesPerWorker": 2}, "ddpBackend: gloo"),
    ("path", lambda f: None, {"modelNameOrPath": "./nowhere"}, "no folder ./nowhere"),
    ("name", lambda f: None, {"modelNameOrPath": "no such/name!"}, "neither a folder nor a valid Hub name"),
    ("hub", lambda f: None, {"modelNameOrPath": "nobody/nothing-at-all"}, "the Hub"),
]

# What no file's header shows, and what depends on the machine that trains.
ONLY_THE_RUN_SEES = (
    "the base model's outputs are NaN or infinite",
    "not enough memory: training takes about",
)


@pytest.mark.parametrize(
    ("spoil", "changes", "said"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_one_clear_error_and_nothing_written(
    spoil: Break,
    changes: dict[str, Any],
    said: str,
    model_folder: Path,
    data_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    spoil(folder)
    values = {
        "modelNameOrPath": str(folder),
        "train__datasetName": None,
        "train__dataFile": str(data_file),
        "train__outputDir": str(tmp_path / "out"),
        "train__maxSeqLength": 128,
        "train__bf16": "auto",
        "train__useIpex": False,
        **changes,
    }
    for check in (["--check"], []) if said not in ONLY_THE_RUN_SEES else ([],):
        outcome = run_here(capfd, monkeypatch, *assignments(**values), *check)
        errors = [line for line in outcome.text.splitlines() if line.startswith("error: ")]
        assert outcome.code in (2, 4), outcome.text
        assert len(errors) == 1
        assert said in errors[0]
        assert "Traceback" not in outcome.text
        assert not (tmp_path / "out").exists()


def test_bf16_that_the_processor_lacks_is_refused_unless_auto(
    model_folder: Path,
    data_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llm_finetune.launcher import preflight

    monkeypatch.setattr(preflight, "has_bf16", lambda: False)
    values = {
        "modelNameOrPath": str(model_folder),
        "train__datasetName": None,
        "train__dataFile": str(data_file),
    }
    outcome = run_here(capfd, monkeypatch, *assignments(**values, train__bf16=True))
    assert outcome.code == 2
    assert "write auto or false" in outcome.text
