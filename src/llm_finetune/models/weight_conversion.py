"""Weights that files and model name, or cut, in different ways; transformers knows how to turn them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from llm_finetune.models.safetensors_io import StoredWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Conversion:
    """How the weights of a model folder become those of the model.

    Args:
        meta_model: the model without memory for its weights.

    Attributes:
        names: for each weight of the files that the model takes as it is, its name in the model.
        parts: for each weight of the model that is made of several in the files, their names there.
    """

    def __init__(self, stored: StoredWeights, meta_model: PreTrainedModel) -> None:
        self._stored, self._meta_model = stored, meta_model
        taken = meta_model.state_dict()
        self.names: dict[str, str] = {}
        parts: dict[str, list[str]] = defaultdict(list)
        for name, inside, is_whole in _renamed(stored, meta_model, taken):
            if inside in taken and is_whole:
                self.names[name] = inside
            elif inside in taken:
                parts[inside].append(name)
        self.parts = dict(parts)

    def join(self, inside: str) -> torch.Tensor:
        """The weight of the model that is made of several in the files, in their format.

        Raises:
            ValueError: they do not make one weight.
        """
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        parts = {name: self._stored.read(name) for name in self.parts[inside]}
        (dtype,) = {part.dtype for part in parts.values()}
        path, _, last = inside.rpartition(".")
        module: Any = self._meta_model.get_submodule(path)
        hollow = getattr(module, last)
        config = LoadStateDictConfig(dtype=dtype, weight_mapping=_transforms(self._meta_model))
        with _without_bar():
            convert_and_load_state_dict_in_model(self._meta_model, parts, config)
        joined: torch.Tensor = getattr(module, last)
        setattr(module, last, hollow)
        if joined.is_meta:
            raise ValueError(f"{inside} is not made of {len(parts)} weights of the files alone")
        return joined.detach()

    def split(self, inside: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `join` made of the files' weights, as these again.

        Raises:
            ValueError: the way back leads elsewhere.
        """
        from transformers.core_model_loading import revert_weight_conversion

        parts: dict[str, torch.Tensor] = revert_weight_conversion(self._meta_model, {inside: weight})
        if parts.keys() != set(self.parts[inside]):
            raise ValueError(f"{inside} cannot be cut into the weights of the files again")
        return parts


def sources_of(meta_model: PreTrainedModel) -> dict[str, set[str]]:
    """For each weight of the model that transformers makes of others: the last names of these in files."""
    from transformers.core_model_loading import WeightConverter

    found: dict[str, set[str]] = defaultdict(set)
    names = [name for name, _ in meta_model.named_parameters()]
    for transform in _transforms(meta_model):
        if isinstance(transform, WeightConverter):
            last = {
                pattern.removesuffix("$").removesuffix(".weight") for pattern in transform.source_patterns
            }
            for target in transform.target_patterns:
                for name in names:
                    if name.endswith(target.removesuffix("$")):
                        found[name] |= {path.rpartition(".")[2] for path in last}
    return dict(found)


def cut_from_others(meta_model: PreTrainedModel) -> set[str]:
    """The weights of the model that files hold as one with others: a change to one has no place there."""
    from transformers.core_model_loading import WeightConverter

    ends = tuple(
        target.removesuffix("$").replace("\\.", ".")
        for transform in _transforms(meta_model)
        if isinstance(transform, WeightConverter) and len(transform.target_patterns) > 1
        for target in transform.target_patterns
    )
    names = [name for name, _ in meta_model.named_parameters()]
    return {name for name in names if name.endswith(ends) or name.removesuffix(".weight").endswith(ends)}


def _renamed(
    stored: StoredWeights, meta_model: PreTrainedModel, taken: dict[str, torch.Tensor]
) -> Iterator[tuple[str, str, bool]]:
    """For each weight of the files its name in the model, and whether it is there by itself.

    Files may name weights with or without the prefix of the inner model, or as an earlier version did.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms, prefix = _transforms(meta_model), meta_model.base_model_prefix
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    joining = [t for t in transforms if isinstance(t, WeightConverter) and len(t.target_patterns) == 1]
    for name in stored:
        inside = rename_source_key(name, renamings, [], prefix, taken)[0]
        if inside in taken:
            yield name, inside, True
            continue
        inside, pattern = rename_source_key(name, renamings, joining, prefix, taken)
        yield name, inside, pattern is None


@contextmanager
def _without_bar() -> Iterator[None]:
    """transformers would draw one for each weight."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _transforms(meta_model: PreTrainedModel) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping

    return list(get_model_conversion_mapping(meta_model))
