"""Optimizer and scheduler in files: tensors in safetensors, all else in JSON, nothing that is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llm_finetune.report.results import write_json

TENSORS = "optimizer.safetensors"
NUMBERS = "optimizer.json"


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Writes the states of an optimizer whose state is all tensors, as AdamW's is, and of a scheduler."""
    state = optimizer.state_dict()
    tensors = {
        f"{parameter}.{name}": tensor.contiguous()
        for parameter, entries in state["state"].items()
        for name, tensor in entries.items()
    }
    save_file(tensors, folder / TENSORS)
    write_json(folder / NUMBERS, {"param_groups": state["param_groups"], "scheduler": scheduler.state_dict()})


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Reads both states back."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / TENSORS).items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = tensor
    numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    optimizer.load_state_dict({"state": state, "param_groups": numbers["param_groups"]})
    scheduler.load_state_dict(numbers["scheduler"])


def state_bytes(optimizer: Any) -> int:
    """What the tensors take."""
    return sum(
        tensor.nbytes for entries in optimizer.state_dict()["state"].values() for tensor in entries.values()
    )
