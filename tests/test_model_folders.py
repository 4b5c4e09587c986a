"""Any value anywhere in a model folder: the model trains, or one error names what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz import fuzz
from llm_finetune.config import Settings, load
from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.errors import ModelError
from llm_finetune.kernels.training.optimize import Switches, optimize_model
from llm_finetune.models import loading
from llm_finetune.models.packing_check import check_isolation, check_runs
from llm_finetune.models.resolve import fetch
from llm_finetune.objectives.log_probs import label_log_probs
from llm_finetune.pipeline.inputs import describe_model

ANY = fuzz(40)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70)
    | st.sampled_from(
        [10**5, 10**9, 10**30, -1, 0.0, -0.5, 1e300, "", "auto", "evil", "evil/kernel", "float64"]
    )
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
ODD = [10**5, 10**9, 10**30, 0.0, -0.5, 1e300, "", "auto", "evil", "evil/kernel", "float64"]
# Beside the keys that stand there: those that a model of the kind may have.
KEYS = {
    CONFIG: """attn_implementation attention_bias attention_dropout auto_map architectures dtype head_dim
        hidden_act id2label layer_types mlp_bias num_labels output_attentions output_hidden_states
        pretraining_tp quantization_config rope_parameters rope_scaling rope_theta sliding_window
        tie_word_embeddings tokenizer_class torch_dtype use_cache""",
    TOKENIZER: "normalizer padding post_processor truncation",
    TOKENIZER_CONFIG: "add_bos_token added_tokens_decoder auto_map chat_template extra_special_tokens",
    GENERATION: "cache_implementation do_sample eos_token_id max_length temperature",
    "special_tokens_map.json": "additional_special_tokens eos_token",
}


@pytest.fixture(scope="module")
def model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(model_folder, folder)
    return folder


@pytest.fixture(scope="module")
def asked() -> Settings:
    return load([], set_values=["distributed.train.maxSeqLength=32"]).settings


def trained(asked: Settings, folder: Path) -> None:
    """All that a job does with a model's own content until its first step is done."""
    fetch(str(folder), None, weights=True, code=False)
    config, tokenizer, _ = describe_model(asked, folder)
    tokenizer("The red fox runs.")
    model: Any = loading.load_weights(folder, torch.float32, trust_remote_code=False)
    check_runs(model, config.get_text_config().vocab_size)
    check_isolation(model, config.get_text_config().vocab_size)
    optimize_model(model, Switches(), partial(label_log_probs, model), ignored=IGNORE_INDEX)
    ids = torch.arange(3, 15).view(1, -1)
    label_log_probs(model.train(), ids, torch.arange(12).view(1, -1), ids.clone()).sum().backward()


@contextmanager
def right_or_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        (line,) = error.problems
        assert str(folder) in line or "model" in line


@contextmanager
def changed(file: Path, change: Callable[[Any], None]) -> Iterator[None]:
    """While the body runs a JSON file has that change; where there is none it is made."""
    kept = file.read_bytes() if file.exists() else None
    content = json.loads(kept) if kept else {}
    change(content)
    file.write_text(json.dumps(content))
    try:
        yield
    finally:
        if kept is None:
            file.unlink()
        else:
            file.write_bytes(kept)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Each mapping or list in the tree with each of its keys; of many alike the first."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    here = [(tree, key) for key in list(keys)[:20]]
    return here + [place for key in list(keys)[:20] for place in places(tree[key])]


@pytest.mark.parametrize("name", list(KEYS))
@given(data=st.data())
@ANY
def test_any_value_anywhere(model: Path, asked: Settings, name: str, data: st.DataObject) -> None:
    def change(content: Any) -> None:
        for _ in range(data.draw(st.integers(1, 2))):
            more = [(content, key) for key in KEYS[name].split()]
            above, key = data.draw(st.sampled_from(places(content) + more))
            if data.draw(st.booleans()) and (isinstance(above, list) or key in above):
                del above[key]
            else:
                above[key] = data.draw(VALUE)

    with changed(model / name, change), right_or_named(model):
        trained(asked, model)


@given(data=st.data())
@ANY
def test_any_bytes_in_a_header(model: Path, asked: Settings, data: st.DataObject) -> None:
    file = model / "model.safetensors"
    kept = file.read_bytes()
    length = int.from_bytes(kept[:8], "little")
    header = json.loads(kept[8 : 8 + length])
    above, key = data.draw(st.sampled_from(places(header)))
    above[key] = data.draw(VALUE)
    spoilt = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(spoilt), len(spoilt) + 1, 0, 2**63, 2**64 - 1]))
    file.write_bytes(length.to_bytes(8, "little") + spoilt + kept[8 + int.from_bytes(kept[:8], "little") :])
    try:
        with right_or_named(model):
            trained(asked, model)
    finally:
        file.write_bytes(kept)


@given(weight_map=st.dictionaries(st.sampled_from(["model.norm.weight", "x"]), VALUE) | VALUE)
@example(weight_map={"x": "../../x"})
@ANY
def test_any_index(model: Path, asked: Settings, weight_map: Any) -> None:
    with (
        changed(
            model / "model.safetensors.index.json", lambda content: content.update(weight_map=weight_map)
        ),
        right_or_named(model),
    ):
        trained(asked, model)
