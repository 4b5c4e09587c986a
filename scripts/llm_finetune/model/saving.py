"""A tuned model on its way to the output folder and back: all of it, or nothing under its final name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.model.adapters import load_adapter
from llm_finetune.model.base import load_weights

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Whoever loads the folder looks for these first, so they arrive last.
ENTRY_FILES = ("config.json", "adapter_config.json")


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes model or adapter and tokenizer as transformers and peft read them, aside first."""
    aside = folder / ".saving"
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    files = sorted(aside.iterdir(), key=lambda file: (file.name in ENTRY_FILES, file.name))
    for file in files:
        os.replace(file, folder / file.name)
    aside.rmdir()


def load_tuned(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel | PeftModel | None:
    """The tuned model that a run left in its output folder: the base with the adapter, or a model of its own.

    Args:
        model: the base; an adapter is put onto it.
        dtype: of the weights of a model of its own.

    Returns:
        None where the folder holds neither.

    Raises:
        ModelError: what it holds is broken, or an adapter of another base.
    """
    if (folder / "adapter_config.json").is_file():
        return load_adapter(model, folder)
    if (folder / "config.json").is_file():
        return load_weights(folder, dtype, trust_remote_code)
    return None
