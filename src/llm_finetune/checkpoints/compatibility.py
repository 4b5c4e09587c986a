"""Checks whether a run can resume from a checkpoint, by comparing its numbers with the run before using them.

The manifest proves that the files are as they were written. They may still be another version's, or edited.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError, with_config
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, TrainerControl
from transformers.trainer_callback import ExportableState, TrainerState
from typing_extensions import TypedDict

from llm_finetune.checkpoints import directories, manifest, optimizer_state, weights
from llm_finetune.checkpoints.checkpoint import STATE
from llm_finetune.checkpoints.training_state import Progress
from llm_finetune.errors import ModelError
from llm_finetune.models.adapters import WEIGHTS
from llm_finetune.models.safetensors_io import StoredWeights

# The stateful callbacks that a run of this project may have.
WITH_STATE: tuple[Callable[[], ExportableState], ...] = (TrainerControl, EarlyStoppingCallback)


@dataclass(frozen=True)
class Expected:
    """What a resuming run expects of its checkpoints.

    Attributes:
        rows: rows of an epoch.
        epochs, max_steps: from the settings; max_steps wins where it is above 0.
        may_stop_early: whether early stopping is enabled.
        held: names, in the model, of the weights that a checkpoint contains.
        tied: those of them that share their storage with another.
        shapes: shapes of the trained parameters.
    """

    rows: int
    epochs: int
    max_steps: int
    may_stop_early: bool
    held: Collection[str]
    tied: Collection[str]
    shapes: list[tuple[int, ...]]


class _Callback(TypedDict):
    args: dict[str, bool | int | float]
    attributes: dict[str, bool | int | float]


@with_config({"strict": True})
class _State(TypedDict):
    """The part of the Trainer's state that a resuming run uses."""

    global_step: int
    epoch: float | None
    log_history: list[dict[str, float | int]]
    best_metric: float | None
    best_global_step: int | None
    stateful_callbacks: dict[str, _Callback]
    total_flos: float
    num_input_tokens_seen: int


_STATE = TypeAdapter(_State)


def problem(folder: Path, step_rows: int, expected: Expected) -> str | None:
    """Why the run cannot resume from the checkpoint; None if it can.

    Args:
        step_rows: rows of a step when the run began, the most that any step has.
    """
    try:
        step = int(folder.name.removeprefix(directories.name_of(0)[:-1]))
        return (
            _problem_of_manifest(folder, step)
            or _problem_of_progress(Progress.read(folder), step, step_rows, expected)
            or _problem_of_state(folder / STATE, step)
            or problem_of_weights(folder, expected)
            or optimizer_state.problem(folder, step, expected.shapes)
        )
    except FileNotFoundError as error:
        return f"{Path(str(error.filename or error)).name}: missing"
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        return f"{where}: found {str(first['input'])[:60]!r}: {first['msg']}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        return f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
    except (SafetensorError, ModelError) as error:
        return str(error).splitlines()[0]


def _problem_of_manifest(folder: Path, step: int) -> str | None:
    content: Any = json.loads((folder / manifest.NAME).read_text(encoding="utf-8"))
    found = (content.get("step"), content.get("world_size"))
    if any(type(number) is not int for number in found) or found[0] != step or found[1] < 1:
        return f"{manifest.NAME}: found step {found[0]!r} of {found[1]!r} ranks, expected step {step} of some"
    return None


def _problem_of_progress(found: Progress, step: int, step_rows: int, expected: Expected) -> str | None:
    seen = found.epoch * expected.rows + found.row
    is_at_end = found.epoch == expected.epochs or (found.epoch, found.row) == (
        expected.epochs - 1,
        expected.rows,
    )
    wrong = {
        f"step {found.step}, expected {step}": found.step != step,
        f"row {found.row} of {expected.rows}": found.row > expected.rows,
        f"{found.unlogged} unlogged steps of {step}": found.unlogged > step,
        f"{seen} rows seen in {step} steps": not step <= seen or (step_rows and seen > step * step_rows),
    }
    if expected.max_steps > 0:
        wrong[f"step {step} of {expected.max_steps}"] = step > expected.max_steps
        is_at_end = step == expected.max_steps
    else:
        wrong[f"epoch {found.epoch} of {expected.epochs}"] = found.epoch > expected.epochs
    wrong[f"the end at step {step}"] = found.is_over and not (is_at_end or expected.may_stop_early)
    return next((f"progress.json: found {what}" for what, is_so in wrong.items() if is_so), None)


def _problem_of_state(file: Path, step: int) -> str | None:
    content = json.loads(file.read_text(encoding="utf-8"))
    TrainerState(**content)
    read = _STATE.validate_python(content)
    if read["global_step"] != step:
        return f"{file.name}: global_step: found {read['global_step']}, expected {step}"
    best = read["best_global_step"]
    if best is not None and not 0 <= best <= step:
        return f"{file.name}: best_global_step: found {best}, expected up to {step}"
    known = {make().__class__.__name__: make().state() for make in WITH_STATE}
    for name, found in read["stateful_callbacks"].items():
        if name not in known or _shape(dict(found)) != _shape(known[name]):
            return f"{file.name}: stateful_callbacks: found {name} in another form than this version's"
    return None


def _shape(callback: dict[str, Any]) -> dict[str, Any]:
    """Names and types of the values in a callback's state."""
    return {
        part: {name: "flag" if isinstance(value, bool) else "number" for name, value in values.items()}
        for part, values in callback.items()
    }


def problem_of_weights(folder: Path, expected: Expected) -> str | None:
    held = weights.read_digests(folder)
    if held is None:
        if (folder / WEIGHTS).is_file():
            return None
        # Earlier versions matched weights by their names in the model, and continued with the base's weights
        # where the files have other names: this checkpoint may come from such a mixture.
        held, tied = dict.fromkeys(StoredWeights(folder), ""), set(expected.tied)
        if strange := sorted(held.keys() - set(expected.held)) + sorted(
            set(expected.held) - held.keys() - tied
        ):
            return (
                f"an earlier version wrote it, which went on with base weights where the files name them "
                f"otherwise than the model ({strange[0]})"
            )
        return None
    if strange := sorted(held.keys() ^ set(expected.held)):
        where = "the model" if strange[0] in expected.held else "the checkpoint"
        return f"{weights.NAME}: {strange[0]} is in {where} alone"
    return None
