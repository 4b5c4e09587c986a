"""A model's decoder blocks, one after another, each with what the calibration texts bring to it.

Only the block at hand is in fp32 and in memory; the rest of the model stays mapped from its files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_finetune.errors import ModelError
from llm_finetune.quantization.quantized_model import is_linear

log = logging.getLogger(__name__)

Linear: TypeAlias = torch.nn.Linear | Conv1D


@dataclass(frozen=True)
class Call:
    """What a block is called with for one text.

    Attributes:
        hidden: the hidden states, its first argument; None where they were not recorded.
    """

    hidden: torch.Tensor | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A decoder block.

    Attributes:
        path: in the model.
        calls: one a text.
    """

    path: str
    module: torch.nn.Module
    calls: list[Call]

    def linears(self) -> dict[str, Linear]:
        """Its linear layers by their paths in the block."""
        return {path: module for path, module in self.module.named_modules() if is_linear(module)}

    @torch.no_grad()
    def run(self, call: Call) -> torch.Tensor:
        """The hidden states that leave the block."""
        output = self.module(call.hidden, *call.args, **call.kwargs)
        hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    def run_watched(self, hooks: Iterable[RemovableHandle]) -> None:
        """Runs all texts while the hooks watch; they come off behind it."""
        try:
            for call in self.calls:
                self.run(call)
        finally:
            for hook in hooks:
                hook.remove()


def walk(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> Iterator[Block]:
    """The blocks from first to last, in fp32.

    What the caller changes in a block is what the next one's inputs come from. A block is released when the
    next one is requested.
    """
    calls = record_calls(model, texts, hidden_of_all=False)
    hidden: list[torch.Tensor | None] = [call.hidden for call in calls[0]]
    blocks = find_blocks(model)
    for number, (path, module) in enumerate(blocks):
        log.info("quantizing block %d of %d", number + 1, len(blocks))
        known = [replace(call, hidden=state) for call, state in zip(calls[number], hidden, strict=True)]
        block = Block(path, module.float(), known)
        yield block
        hidden = [block.run(call) for call in known]
        module.to("meta")


@torch.no_grad()
def record_calls(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], *, hidden_of_all: bool
) -> list[list[Call]]:
    """For each block and each text what the block is called with, in fp32.

    Args:
        hidden_of_all: record the hidden states of all blocks, not only of the first.
    """
    blocks = find_blocks(model)
    calls: list[list[Call]] = [[] for _ in blocks]

    def recorder(number: int) -> Any:
        def record(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
            recorded = hidden.float() if hidden_of_all or number == 0 else None
            calls[number].append(Call(recorded, _in_fp32(rest), _in_fp32(kwargs)))

        return record

    hooks = [
        module.register_forward_pre_hook(recorder(number), with_kwargs=True)
        for number, (_, module) in enumerate(blocks)
    ]
    try:
        for text in texts:
            model(input_ids=torch.tensor([list(text)]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def find_blocks(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The decoder blocks with their paths: of all module lists the one with the most linear layers."""
    lists = [(path, m) for path, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)]
    linears = {path: sum(map(is_linear, blocks.modules())) for path, blocks in lists}
    if not any(linears.values()):
        raise ModelError(
            "GPTQ, AWQ and TEQ work on a stack of decoder blocks, and this model has none; write RTN"
        )
    path, blocks = max(lists, key=lambda item: linears[item[0]])
    return [(f"{path}.{number}", module) for number, module in enumerate(blocks)]


def _in_fp32(value: Any) -> Any:
    """The same with every floating-point tensor in fp32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_in_fp32(item) for item in value)
    if isinstance(value, dict):
        return {name: _in_fp32(item) for name, item in value.items()}
    return value
