"""A model from its folder, ready to answer: plain, an adapter merged into its base, or quantized."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llm_finetune.host.cpu import has_bf16
from llm_finetune.models import adapters, loading
from llm_finetune.models.adapter_config import read_config, why_not_merged
from llm_finetune.models.merging import TunedModel, UnmergedError
from llm_finetune.models.model_directory import Kind, base_of, kind_of
from llm_finetune.models.resolve import fetch
from llm_finetune.models.safetensors_io import StoredWeights
from llm_finetune.quantization.quantized_model import load_quantized

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelFolder:
    """A model that is ready to answer.

    Attributes:
        model: in eval mode.
        end_ids: the tokens that end an answer: the tokenizer's, and those of generation_config.json.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    end_ids: frozenset[int]


def load_folder(folder: Path, *, trust_remote_code: bool = False) -> ModelFolder:
    """Loads whatever model the folder holds, no less exact than its files.

    What they hold in fp32 stays so, as transformers loads it; a shorter format becomes bf16 where the
    processor has it, else fp32. An adapter comes with its base model, from where adapter_config.json says,
    and is merged into it, as `merge` does, so it generates as fast as its base. One that cannot be merged
    stays separate.

    Raises:
        ModelError: what is wrong with the folder, or with the base of its adapter, and what to do.
    """
    kind = kind_of(folder)
    described = folder
    if kind == "quantized":
        model = load_quantized(folder, trust_remote_code=trust_remote_code)
    elif kind == "adapter":
        base_folder = base_of(folder, trust_remote_code)
        if not (folder / "tokenizer.json").is_file():
            described = base_folder
        model = with_adapter(base_folder, folder, _dtype_for(base_folder), trust_remote_code)
    else:
        whole = fetch(str(folder), None, weights=True, code=False)
        model = loading.load_weights(whole, _dtype_for(whole), trust_remote_code)
    tokenizer = loading.load_tokenizer(described, trust_remote_code)
    loading.check_fits(model.config, tokenizer, max_length=1)
    return ModelFolder(model.eval(), tokenizer, kind, end_ids(model, tokenizer))


def _dtype_for(folder: Path) -> torch.dtype:
    """The format that the folder's weights are loaded in to answer."""
    elements: Counter[str] = Counter()
    for stored, shape in StoredWeights(folder).headers().values():
        elements[stored] += math.prod(shape)
    is_exact = max(elements, key=elements.__getitem__, default="") in ("F32", "F64")
    return torch.bfloat16 if has_bf16() and not is_exact else torch.float32


def with_adapter(
    base_folder: Path, folder: Path, dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel | PeftModel:
    """The base with the adapter worked in, where that can be; else with the adapter beside it."""
    if not why_not_merged(read_config(folder)):
        with suppress(UnmergedError):
            return TunedModel(base_folder, folder, trust_remote_code).load_in(dtype)
    return adapters.load_adapter(loading.load_weights(base_folder, dtype, trust_remote_code), folder)


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and those of the model's generation_config."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(int(one) for one in (tokenizer.eos_token_id, *several) if one is not None)
