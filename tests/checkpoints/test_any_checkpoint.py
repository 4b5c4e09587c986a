"""Any content where a checkpoint's should be, though its manifest speaks for it: told in a line, or right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EarlyStoppingCallback, TrainerControl
from transformers.trainer_callback import TrainerState

from fuzz import fuzz
from llm_finetune.checkpoints import checkpoint, compatibility, directories, manifest, weights
from llm_finetune.checkpoints.optimizer_state import load_optimizer, save_optimizer
from llm_finetune.checkpoints.training_state import Progress
from llm_finetune.errors import OutputError
from llm_finetune.models.adapters import LoraPlan, add_adapters
from tiny_model import tiny_model

STEP, STEP_ROWS = 3, 2
ANY = fuzz(60)
VALUE = (
    st.sampled_from([None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", [], {}, [[]], {"a": 1}])
    | st.integers(-3, 9)
    | st.floats()
    | st.text(max_size=4)
)
JSON_FILES = ["progress.json", "trainer_state.json", "optimizer.json", "weights.json", "manifest.json"]
TENSOR_FILES = ["optimizer.safetensors", "adapter_model.safetensors"]


@dataclass(frozen=True)
class Made:
    """A whole checkpoint and what it is of."""

    folder: Path
    model: Any
    optimizer: Any
    scheduler: Any
    expected: compatibility.Expected


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("run") / directories.name_of(STEP)
    folder.mkdir()
    model = add_adapters(tiny_model("llama"), LoraPlan(2, 4, 0.0, ("q_proj", "v_proj")))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([{"params": trained[:3]}, {"params": trained[3:]}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(STEP):
        model(input_ids=torch.arange(8)[None]).logits.square().sum().backward()
        optimizer.step()
        scheduler.step()
    weights.save(model, folder)
    save_optimizer(optimizer, scheduler, folder)
    stateful = {type(one).__name__: one.state() for one in (TrainerControl(), EarlyStoppingCallback(2))}
    history: list[dict[str, float]] = [{"step": 1, "loss": 3.0, "epoch": 0.5}]
    state = TrainerState(global_step=STEP, epoch=0.6, log_history=history, best_global_step=1)
    state.stateful_callbacks = stateful
    state.save_to_json(str(folder / checkpoint.STATE))
    Progress(step=STEP, row=STEP * STEP_ROWS, loss_sum=9.5, unlogged=1, unlogged_sum=2.5).write(folder)
    manifest.write(folder, STEP, 1)
    expected = compatibility.Expected(
        rows=10,
        epochs=2,
        max_steps=-1,
        may_stop_early=True,
        held=frozenset(weights.trained_weights(model)),
        tied=frozenset(),
        shapes=[tuple(weight.shape) for weight in trained],
    )
    return Made(folder, model, optimizer, scheduler, expected)


def told(made: Made) -> str | None:
    """What is said of it; where nothing is, it can be read."""
    problem = compatibility.problem(made.folder, STEP_ROWS, made.expected)
    if problem is None:
        with suppress(OutputError), checkpoint.reading(made.folder):
            checkpoint.read_state(made.folder)
            weights.load(made.model, made.folder)
            load_optimizer(made.optimizer, made.scheduler, made.folder)
    else:
        assert problem.strip()
        assert "\n" not in problem
    return problem


def spoilt(made: Made, name: str, content: bytes) -> str | None:
    """What is told where a file has another content, and the manifest says that this is right."""
    files = {file: (made.folder / file).read_bytes() for file in (name, manifest.NAME)}
    try:
        (made.folder / name).write_bytes(content)
        if name != manifest.NAME:
            manifest.write(made.folder, STEP, 1)
        return told(made)
    finally:
        for file, kept in files.items():
            (made.folder / file).write_bytes(kept)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in tree if isinstance(tree, dict) else range(len(tree) if isinstance(tree, list) else 0):
        yield tree, key
        yield from places(tree[key])


def test_what_was_written_is_right(made: Made) -> None:
    assert told(made) is None


@pytest.mark.parametrize("name", JSON_FILES)
@given(data=st.data())
@ANY
def test_any_value_anywhere(made: Made, name: str, data: st.DataObject) -> None:
    content = json.loads((made.folder / name).read_text())
    above, key = data.draw(st.sampled_from(list(places(content))))
    if data.draw(st.booleans()):
        above[key] = data.draw(VALUE)
    else:
        del above[key]
    spoilt(made, name, json.dumps(content).encode())


@pytest.mark.parametrize("name", [*JSON_FILES, *TENSOR_FILES])
@given(content=st.binary(max_size=200) | st.just(b"[" * 100_000))
@ANY
def test_any_bytes(made: Made, name: str, content: bytes) -> None:
    told_of = spoilt(made, name, content)
    assert told_of or name in TENSOR_FILES


@pytest.mark.parametrize("name", TENSOR_FILES)
@given(data=st.data())
@ANY
def test_tensors_cut_or_changed_anywhere(made: Made, name: str, data: st.DataObject) -> None:
    kept = (made.folder / name).read_bytes()
    place = data.draw(st.integers(0, 900) | st.integers(0, len(kept) - 1))
    cut = data.draw(st.booleans())
    spoilt(made, name, kept[:place] if cut else kept[:place] + b"\xff" + kept[place + 1 :])


def test_another_folders_checkpoint_is_told(made: Made, tmp_path: Path) -> None:
    other = shutil.copytree(made.folder, tmp_path / directories.name_of(STEP + 1))
    assert "expected step 4" in str(compatibility.problem(Path(other), STEP_ROWS, made.expected))
