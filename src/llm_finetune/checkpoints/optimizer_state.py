"""Stores optimizer and scheduler without pickle: tensors as safetensors, everything else as JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typing_extensions import TypedDict

from llm_finetune.storage.json_files import write_json

TENSORS = "optimizer.safetensors"
NUMBERS = "optimizer.json"

Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Group(TypedDict):
    lr: Rate
    params: list[Count]


class _Scheduler(TypedDict):
    last_epoch: Count
    base_lrs: list[Rate]
    _last_lr: list[Rate]


@with_config(ConfigDict(strict=True))
class _Numbers(TypedDict):
    """The values that are restored; all others follow from the settings."""

    param_groups: list[_Group]
    scheduler: _Scheduler


_NUMBERS = TypeAdapter(_Numbers)


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Writes a scheduler and an optimizer whose state consists of tensors, as AdamW's does."""
    state = optimizer.state_dict()
    tensors = {
        f"{parameter}.{name}": tensor.contiguous()
        for parameter, entries in state["state"].items()
        for name, tensor in entries.items()
    }
    save_file(tensors, folder / TENSORS)
    write_json(folder / NUMBERS, {"param_groups": state["param_groups"], "scheduler": scheduler.state_dict()})


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Restores both states.

    Raises:
        ValueError: the files belong to another optimizer.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / TENSORS).items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = tensor
    numbers = _read_numbers(folder)
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in numbers["param_groups"]]:
        raise ValueError(f"{NUMBERS}: param_groups are of other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in state.items():
        for name, tensor in entries.items():
            if tensor.dim() and tensor.shape != parameters[number].shape:
                raise ValueError(f"{TENSORS}: {number}.{name} has the shape of another parameter")
    read = zip(groups, numbers["param_groups"], strict=True)
    changed = [{**group, "lr": was["lr"]} for group, was in read]
    optimizer.load_state_dict({"state": state, "param_groups": changed})
    scheduler.load_state_dict({**scheduler.state_dict(), **numbers["scheduler"]})


def problem(folder: Path, step: int, shapes: Sequence[tuple[int, ...]]) -> str | None:
    """Why the files cannot be an optimizer's state after `step` steps; None if they can.

    Args:
        shapes: shapes of the trained parameters, in any order.
    """
    numbers = _read_numbers(folder)
    scheduler, groups = numbers["scheduler"], numbers["param_groups"]
    if scheduler["last_epoch"] != step:
        return f"{NUMBERS}: scheduler.last_epoch: found {scheduler['last_epoch']}, expected {step}"
    if {len(scheduler["base_lrs"]), len(scheduler["_last_lr"])} != {len(groups)}:
        return f"{NUMBERS}: scheduler and param_groups are of different lengths"
    listed = [number for group in groups for number in group["params"]]
    if listed != list(range(len(shapes))):
        return f"{NUMBERS}: param_groups list {len(listed)} parameters, expected {len(shapes)}"
    return _problem_of_tensors(folder / TENSORS, step, shapes)


def state_bytes(optimizer: Any) -> int:
    """Size of the optimizer's tensors in bytes."""
    return sum(
        tensor.nbytes for entries in optimizer.state_dict()["state"].values() for tensor in entries.values()
    )


def _read_numbers(folder: Path) -> _Numbers:
    return _NUMBERS.validate_json((folder / NUMBERS).read_bytes())


def _problem_of_tensors(file: Path, step: int, shapes: Sequence[tuple[int, ...]]) -> str | None:
    """Reads one tensor at a time; its parameter is known only once the optimizer exists."""
    found: dict[str, dict[int, tuple[int, ...]]] = defaultdict(dict)
    with safe_open(file, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118
            match = re.fullmatch(r"(\d{1,9})\.(step|exp_avg|exp_avg_sq)", key)
            if not match:
                return f"{file.name}: {key} is nothing that AdamW keeps"
            tensor = tensors.get_tensor(key)
            least = None if match[2] == "exp_avg" else 0
            if not tensor.isfinite().all() or (least is not None and tensor.min() < least):
                return f"{file.name}: {key} holds what no training leaves there"
            if match[2] == "step" and (tensor.numel() != 1 or not 1 <= float(tensor) <= step):
                return f"{file.name}: {key} is no count of steps up to {step}"
            found[match[2]][int(match[1])] = tuple(tensor.shape)
    if not found["step"].keys() == found["exp_avg"].keys() == found["exp_avg_sq"].keys():
        return f"{file.name}: a parameter's step, exp_avg or exp_avg_sq is missing"
    left = list(shapes)
    for name in ("exp_avg", "exp_avg_sq"):
        left = list(shapes)
        for number, shape in found[name].items():
            if shape not in left or number >= len(shapes):
                return f"{file.name}: {number}.{name} has shape {shape}, as no parameter of this model"
            left.remove(shape)
    return None
