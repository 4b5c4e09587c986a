"""Any content where a model, a record or a run should be: one clear error, or none needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from fuzz import fuzz
from llm_finetune.config import load
from llm_finetune.data import PrepareSpec, Source, open_prepared, prepare
from llm_finetune.data.inference_prompts import InferencePrompt
from llm_finetune.data.prompt_config import PromptConfig
from llm_finetune.errors import DataError, ModelError, OutputError, UserError
from llm_finetune.evaluation.result import BaseModelEvaluation, EvaluationResult
from llm_finetune.generation.decoding import decode
from llm_finetune.generation.load import load_folder
from llm_finetune.inference_benchmark.result import BenchmarkResult
from llm_finetune.models import adapters, loading
from llm_finetune.models.adapter_config import read_config
from llm_finetune.models.merging import find_tuned
from llm_finetune.models.resolve import fetch
from llm_finetune.models.safetensors_io import StoredWeights
from llm_finetune.models.saving import save_weights
from llm_finetune.pipeline import run_directory
from llm_finetune.pipeline.all_results import AllResults
from llm_finetune.pipeline.run_record import RunRecord
from llm_finetune.quantization.quantize import quantize
from llm_finetune.quantization.quantized_model import load_quantized
from llm_finetune.quantization.result import QuantizationResult
from llm_finetune.report.html import make_report
from llm_finetune.runtime import heartbeat
from llm_finetune.storage.result import Result
from llm_finetune.training.result import TrainingHistory, TrainingResult

ANY = fuzz(100)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BYTES = st.binary(max_size=300) | JSON.map(lambda content: json.dumps(content).encode())
# Half a surrogate pair can stand in JSON, where no UTF-8 could hold it.
TEXT = st.text(st.characters(), max_size=20) | JSON
RECORD = st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}, optional={"input": TEXT})
MODEL_KEYS = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "intermediate_size",
    "model_type",
    "max_position_embeddings",
    "rope_theta",
]


JUDGED = {"loss": 3.0, "perplexity": 20.0, "rouge_l": 0.2, "exact_match": 0.0}
SPEED = {
    "decode_tokens_per_second": 37.4,
    "memory_bandwidth_bytes_per_second": 43.1e9,
    "latency_ms": {"p50": 26.1, "p90": 31.0, "p99": 60.2},
    "instances": 1,
    "cores_per_instance": 2,
}
SETTINGS = {"modelNameOrPath": "m", "train": {"dataFile": "d", "loraTargetModules": ["a"], "useLora": True}}
# What the stages leave, by file.
LEFT: dict[type[Result], Any] = {
    RunRecord: {"stages": {"train": {}}, "deciding": {}, "settings": SETTINGS, "versions": {"torch": "2"}},
    TrainingResult: {
        "train_loss": 3.0,
        "steps": 9,
        "seconds": 1.5,
        "tokens_per_second": 9.0,
        "peak_memory_bytes": 10**9,
    },
    TrainingHistory: [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval_loss": 2.0}],
    BaseModelEvaluation: {
        "deciding": {},
        "judged": {
            "loss": {"loss": 3.0, "tokens": 9},
            "samples": [{"prompt": "p", "expected": "e", "answer": "a"}],
        },
    },
    EvaluationResult: {
        "eval_loss": 3.0,
        "perplexity": 20.0,
        "base": JUDGED,
        "tuned": JUDGED,
        "samples": [{"prompt": "p", "expected": "e", "base": "b", "tuned": None}],
    },
    QuantizationResult: {
        "algorithm": "RTN",
        "bits": 4,
        "perplexity": 21.0,
        "size_bytes": 10,
        "unquantized_size_bytes": 20,
        "seconds": 1.0,
    },
    BenchmarkResult: {"tuned": SPEED, "quantized": SPEED},
}


SIGN = ["step", "used_bytes", "limit_bytes"]
ADAPTER_KEYS = [
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "target_modules",
    "peft_type",
    "task_type",
    "modules_to_save",
    "rank_pattern",
    "use_dora",
    "alpha_pattern",
    "layers_pattern",
    "layers_to_transform",
    "exclude_modules",
    "init_lora_weights",
    "layer_replication",
    "lora_dropout",
    "bias",
    "lora_bias",
    "use_rslora",
    "fan_in_fan_out",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "velora_config",
    "monteclora_config",
    "use_qalora",
    "use_bdlora",
    "runtime_config",
    "megatron_config",
    "ensure_weight_tying",
    "inference_mode",
    "peft_version",
]
# Near what is right, where any value at all is mostly refused at once.
NEAR = st.sampled_from(
    [
        *(float("nan"), 0, 1, -1, 2**40, True, None, [1], [-7]),
        *("pissa", "pissa_niter_9", "eva", "olora", "loftq", "lora_ga", "mica"),
        *("[", "q_proj", ".*proj", "lm_head", ["lm_head"], ["q_proj", "embed_tokens"]),
        *({"q_proj": 1}, {"(": 2}, {"embed_tokens": [1]}, [[0, 1], [0, 2]], [[0, 9]]),
    ]
)


@contextmanager
def right_or(kind: type[UserError], named: str) -> Iterator[None]:
    """The body succeeds, or raises this kind of error and no other, and it says what is meant."""
    try:
        yield
    except kind as error:
        if named not in str(error):
            raise AssertionError(f"{named!r} is not named") from error


@contextmanager
def holding(file: Path, content: bytes) -> Iterator[None]:
    """While the body runs the file has this content."""
    kept = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(kept)


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    return folder


@given(content=BYTES)
@ANY
def test_any_bytes_for_run_json(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_bytes(content)
    inputs = {"key": 1}
    outputs = [
        run_directory.StageOutput("train", inputs, (TrainingResult,), folder, is_repeatable=False),
        run_directory.StageOutput("evaluate", inputs, (AllResults,), None, is_repeatable=True),
    ]
    with right_or(OutputError, "run.json"):
        found = run_directory.inspect_run(folder, outputs, overwrite=True, fresh=False)
        assert not found.continues
        found.begin(RunRecord(deciding=inputs, stages={}))


@given(content=BYTES | st.fixed_dictionaries(dict.fromkeys(SIGN, JSON)).map(lambda c: json.dumps(c).encode()))
@ANY
def test_any_bytes_for_a_sign_of_life(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("sign") / ".heartbeat.json"
    file.write_bytes(content)
    assert str(heartbeat.read(file))


def describe(model: Path) -> None:
    """All that is read of a model before its weights."""
    config = loading.load_config(fetch(str(model), None, weights=True, code=False), False)
    loading.check_fits(config, loading.load_tokenizer(model, False), 64)
    loading.meta_model(config, False)


@pytest.mark.parametrize("kind", list(LEFT))
@given(content=BYTES)
@example(content=b'{"train_loss": 0.')
@ANY
def test_any_bytes_for_an_earlier_result(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Result], content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("results")
    (folder / kind.file_name).write_bytes(content)
    with right_or(OutputError, kind.file_name):
        make_report(folder).write(folder)
        kind.read(folder)


@pytest.mark.parametrize("kind", list(LEFT))
@given(data=st.data())
@ANY
def test_any_value_anywhere_in_an_earlier_result(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Result], data: st.DataObject
) -> None:
    """A result that was right, but for one value that is another, or gone."""
    content = json.loads(json.dumps(LEFT[kind]))
    above, key = data.draw(st.sampled_from(list(places(content))))
    if data.draw(st.booleans()):
        above[key] = data.draw(JSON)
    else:
        del above[key]
    folder = tmp_path_factory.mktemp("results")
    (folder / kind.file_name).write_text(json.dumps(content))
    with right_or(OutputError, kind.file_name):
        make_report(folder).write(folder)
        kind.read(folder)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each mapping or list in the tree with each of its keys."""
    for key in tree if isinstance(tree, dict) else range(len(tree) if isinstance(tree, list) else 0):
        yield tree, key
        yield from places(tree[key])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@given(content=BYTES)
@ANY
def test_any_bytes_for_a_models_description(model: Path, name: str, content: bytes) -> None:
    with holding(model / name, content), right_or(ModelError, str(model)):
        describe(model)


@given(changes=st.dictionaries(st.sampled_from(MODEL_KEYS), JSON, min_size=1))
@ANY
def test_any_value_for_a_key_of_config_json(model: Path, changes: dict[str, Any]) -> None:
    file = model / "config.json"
    content = json.dumps({**json.loads(file.read_text()), **changes}).encode()
    with holding(file, content), right_or(ModelError, ""):
        describe(model)


@given(data=st.data())
@ANY
def test_weights_cut_or_changed_anywhere(model: Path, data: st.DataObject) -> None:
    file = model / "model.safetensors"
    kept = file.read_bytes()
    place = data.draw(st.integers(0, 2000) | st.integers(0, len(kept) - 1))
    spoilt = kept[:place] if data.draw(st.booleans()) else kept[:place] + b"\xff" + kept[place + 1 :]
    with holding(file, spoilt), right_or(ModelError, str(model)):
        list(StoredWeights(model).mapped())
        loading.load_weights(model, torch.float32, False)


@pytest.fixture(scope="session")
def quantized(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "model"
    section = load([]).settings.quantize
    plain = section.model_copy(update={"output_dir": str(folder), "woq_algo": "RTN"})
    quantize(find_tuned(model_folder), plain, [])
    (folder / "generation_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["quantization.json", "generation_config.json", "config.json"])
@given(content=BYTES)
@ANY
def test_any_bytes_beside_quantized_weights(quantized: Path, name: str, content: bytes) -> None:
    with holding(quantized / name, content), right_or(ModelError, str(quantized)):
        load_quantized(quantized)


@pytest.mark.parametrize("wrong", [{"bits": 1}, {"bits": 4}, {"group_size": 1}, {"scheme": "asym"}])
def test_a_description_of_other_weights_is_refused(quantized: Path, wrong: dict[str, Any]) -> None:
    file = quantized / "quantization.json"
    content = json.dumps({**json.loads(file.read_text()), **wrong}).encode()
    with holding(file, content), pytest.raises(ModelError, match="do not fit together"):
        load_quantized(quantized)


@given(data=st.data())
@ANY
def test_any_value_in_quantization_json(quantized: Path, data: st.DataObject) -> None:
    file = quantized / "quantization.json"
    content = json.loads(file.read_text())
    above, key = data.draw(st.sampled_from(list(places(content))))
    above[key] = data.draw(JSON)
    with holding(file, json.dumps(content).encode()), right_or(ModelError, str(quantized)):
        load_quantized(quantized)


@given(data=st.data())
@ANY
def test_any_tensor_in_a_quantized_folder(quantized: Path, data: st.DataObject) -> None:
    """What is read answers as well: with numbers, or with one error."""
    file = quantized / "model.safetensors"
    tensors = load_file(file)
    name = data.draw(st.sampled_from(sorted(tensors)))
    found = tensors.pop(name)
    if data.draw(st.booleans()):
        shape = data.draw(st.just(tuple(found.shape)) | st.lists(st.integers(0, 9), max_size=3).map(tuple))
        value = data.draw(st.sampled_from([0, 1, -1, 255, 1e30, float("nan"), float("inf")]))
        dtype = data.draw(
            st.sampled_from([found.dtype, torch.bool, torch.int64, torch.float16, torch.float64])
        )
        other = data.draw(
            st.just(name) | st.sampled_from(["lm_head.bias", "model.layers.0.x", name + ".weight"])
        )
        tensors[other] = torch.full(shape, value, dtype=torch.float64).to(dtype)
    with holding(file, save(tensors, {"format": "pt"})), right_or(ModelError, ""):
        model = load_quantized(quantized)
        next(decode(model, [[1, 5, 9]], max_new_tokens=1))


@given(content=BYTES | JSON.map(lambda value: json.dumps({"weight_map": value}).encode()))
@ANY
def test_any_bytes_for_an_index_of_weights(model: Path, content: bytes) -> None:
    (model / "model.safetensors.index.json").write_bytes(content)
    with right_or(ModelError, str(model)):
        list(StoredWeights(model).mapped())


@given(changes=st.dictionaries(st.sampled_from(ADAPTER_KEYS), NEAR | JSON, min_size=1, max_size=3))
@ANY
def test_any_value_in_adapter_config_json(adapter: Path, changes: dict[str, Any]) -> None:
    file = adapter / "adapter_config.json"
    content = json.dumps({**json.loads(file.read_text()), **changes}).encode()
    with holding(file, content):
        with right_or(UserError, ""):
            load_folder(adapter)
        with right_or(UserError, ""):
            list(find_tuned(adapter).weights())


@given(data=st.data())
@ANY
def test_weights_of_an_adapter_cut_or_changed_anywhere(adapter: Path, data: st.DataObject) -> None:
    file = adapter / "adapter_model.safetensors"
    kept = file.read_bytes()
    place = data.draw(st.integers(0, 600) | st.integers(0, len(kept) - 1))
    spoilt = kept[:place] if data.draw(st.booleans()) else kept[:place] + b"\xff" + kept[place + 1 :]
    with holding(file, spoilt), right_or(ModelError, str(adapter)):
        list(find_tuned(adapter).weights())


@pytest.fixture(scope="session")
def adapter(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    plan = adapters.LoraPlan(rank=2, alpha=4, dropout=0, target_modules=("q_proj",), rslora=False, dora=False)
    model = adapters.add_adapters(loading.load_weights(model_folder, torch.float32, False), plan)
    adapters.set_base_model(model, str(model_folder), None)
    save_weights(model, folder)
    return folder


@given(content=BYTES)
@ANY
def test_any_bytes_for_a_prompt_config(model: Path, content: bytes) -> None:
    (model / PromptConfig.file_name).write_bytes(content)
    with right_or(ModelError, PromptConfig.file_name):
        InferencePrompt(loading.load_tokenizer(model, False), PromptConfig.read(model))


@given(content=BYTES)
@ANY
def test_any_bytes_for_an_adapter(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_bytes(content)
    with right_or(ModelError, "adapter_config.json"):
        read_config(folder)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ".txt", ".jsonl.gz"])
@given(content=BYTES)
@ANY
def test_any_bytes_for_records(
    model_folder: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    check_records(tmp_path_factory.mktemp("records") / f"records{suffix}", content, model_folder)


@given(records=st.lists(RECORD, min_size=1, max_size=5))
@ANY
def test_any_values_in_a_record(
    model_folder: Path, tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    check_records(tmp_path_factory.mktemp("values") / "records.jsonl", content, model_folder)


def check_records(file: Path, content: bytes, model_folder: Path) -> None:
    """They become rows, or nothing is left of them."""
    file.write_bytes(content)
    cache = file.parent / "cache"
    plan = PrepareSpec(training=(Source(files=file),), with_validation=False)
    with right_or(DataError, file.name):
        prepared = open_prepared(prepare(plan, loading.load_tokenizer(model_folder, False), cache))
        assert prepared.summary.train.rows
    assert not list(cache.glob(".*"))
