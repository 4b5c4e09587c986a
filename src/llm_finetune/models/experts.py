"""Weights that are no layers of their own, as stacked experts: whether an adapter has them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from llm_finetune.errors import ModelError
from llm_finetune.models.adapters import ALL_LINEAR, LoraPlan, unmatched
from llm_finetune.models.weight_conversion import cut_from_others, sources_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def check_parameters(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Raises ModelError where a name is no parameter that an adapter can go to as a whole.

    Args:
        model: one on the meta device is enough.
        names: ends of parameters' paths, as peft takes them for target_parameters.
    """
    fitting = [name for name, weight in model.named_parameters() if weight.dim() in (2, 3)]
    stacked = sorted({_short(name) for name in _stacked(model)})
    problems = [
        f"distributed.train.loraTargetParameters: {name!r} names no parameter of this model{meant} "
        f"(as stacked experts it has {' '.join(stacked) or 'none'})"
        for name, meant in unmatched(names, fitting, stacked)
    ]
    if problems:
        raise ModelError(problems)


def left_out(model: PreTrainedModel, tuned: PeftModel, plan: LoraPlan) -> str | None:
    """What the plan's names promise to train and the adapter does not; None: nothing.

    Args:
        model: without the adapter; one on the meta device is enough.
        tuned: with it.
    """
    adapted = adapted_weights(tuned)
    wanted = {name.rpartition(".")[2] for name in plan.target_modules}
    missed = {
        name: held
        for name, held in _stacked(model).items()
        if name not in adapted and (plan.target_modules == (ALL_LINEAR,) or wanted & held)
    }
    if not missed:
        return None
    share = share_of(model, missed)
    names = " ".join(sorted({_short(name) for name in missed}))
    return (
        f"distributed.train.loraTargetModules: {' '.join(plan.target_modules)} leaves out routed experts, "
        f"{share:.0%} of the model's weights; to train them too write {names} into loraTargetParameters"
    )


def unmerged(model: PreTrainedModel, tuned: PeftModel) -> str | None:
    """Why the adapter cannot be merged into the files of its base; None where it can.

    Args:
        model, tuned: as for `left_out`.
    """
    homeless = sorted(cut_from_others(model) & adapted_weights(tuned))
    if not homeless:
        return None
    return (
        f"distributed.train.loraTargetModules: the files of this model hold {homeless[0]} as one with "
        "others, so an adapter on it cannot be merged or quantized"
    )


def share_of(model: PreTrainedModel, names: Collection[str]) -> float:
    """Of all of the model's weights, by their number, how many these parameters hold."""
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return float(sum(sizes[name] for name in names) / sum(sizes.values()))


def adapted_weights(tuned: PeftModel) -> set[str]:
    """The base's weights that a LoRA adapter changes, by their names in the base."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{path.replace('.base_layer', '')}.{getattr(module, 'parameter_name', 'weight')}"
        for path, module in tuned.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }


def _stacked(model: PreTrainedModel) -> dict[str, set[str]]:
    """Parameters that hold several matrices, with the last names of these in files, and their own."""
    sources = sources_of(model)
    return {
        name: sources.get(name, set()) | {name.rpartition(".")[2]}
        for name, weight in model.named_parameters()
        if weight.dim() == 3
    }


def _short(name: str) -> str:
    """The end of a path that is the same in every layer."""
    return re.split(r"\.\d+\.", name)[-1]
