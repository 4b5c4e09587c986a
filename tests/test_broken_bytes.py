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
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llm_finetune import run_folder
from llm_finetune.data import PreparePlan, Source, open_prepared, prepare
from llm_finetune.errors import DataError, ModelError, OutputError, UserError
from llm_finetune.model import adapters, base
from llm_finetune.model.fetch import fetch
from llm_finetune.model.stored import StoredWeights
from llm_finetune.report import results

ANY = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
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
    deciding: dict[str, dict[str, Any]] = {"train": {"key": 1}, "evaluate": {"key": 1}}
    with right_or(OutputError, "run.json"):
        found = run_folder.look_into(folder, deciding, overwrite=True, fresh=False)
        assert not found.continues
        found.begin({"deciding": deciding["train"]})


def describe(model: Path) -> None:
    """All that is read of a model before its weights."""
    config = base.load_config(fetch(str(model), None, weights=True, code=False), False)
    base.check_fits(config, base.load_tokenizer(model, False), 64)
    base.outline(config, False)


@given(content=st.binary(max_size=50))
@example(content=b'{"train_loss": 0.')
@ANY
def test_any_bytes_for_an_earlier_result(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("results") / "train_results.json"
    file.write_bytes(content)
    with right_or(OutputError, "train_results.json"):
        results.read_result(file)


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
        base.load_weights(model, torch.float32, False)


@given(content=BYTES)
@ANY
def test_any_bytes_for_an_adapter(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_bytes(content)
    with right_or(ModelError, "adapter_config.json"):
        adapters.read_config(folder)


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
    plan = PreparePlan(training=(Source(files=file),), with_validation=False)
    with right_or(DataError, file.name):
        prepared = open_prepared(prepare(plan, base.load_tokenizer(model_folder, False), cache))
        assert prepared.summary.train.rows
    assert not list(cache.glob(".*"))
