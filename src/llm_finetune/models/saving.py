"""A tuned model on its way to the output folder and back: all of it, or nothing under its final name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.models.adapters import load_adapter
from llm_finetune.models.loading import load_weights
from llm_finetune.models.resolve import check_links
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What loads the folder looks for these first, so they arrive last.
ENTRY_FILES = ("config.json", "adapter_config.json")
MODEL = "model"  # what is on its way


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes model or adapter and tokenizer as transformers and peft read them, aside first.

    Raises:
        OutputError: they cannot be written.
    """
    aside = atomic.aside_of(folder / MODEL)
    try:
        atomic.clear(folder, [MODEL])  # makes room where a kill left it
        with writing(folder, weight_bytes(model), lambda: "the checkpoints are intact"):
            aside.mkdir()
            save_weights(model, aside)
            tokenizer.save_pretrained(aside)
            atomic.place_files(aside, folder, last=ENTRY_FILES)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_weights(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Writes model or adapter with its configuration into the folder, file by file."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        # Embeddings are never trained here; to find that out, peft would ask the Hub for the base model.
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)


def is_saved(folder: Path) -> bool:
    """Whether the folder holds a model, or an adapter, and not its description alone."""
    return any((folder / name).is_file() for name in ENTRY_FILES) and any(folder.glob("*.safetensors"))


def check_room(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Raises OutputError where the volume has no room for a checkpoint, with AdamW's state, and the model."""
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    with writing(folder, 2 * weight_bytes(model) + 2 * trained, lambda: "nothing is trained yet"):
        pass


def weight_bytes(model: PreTrainedModel | PeftModel) -> int:
    """What `save_weights` takes on the disk: the adapter's weights, or all."""
    from peft import PeftModel

    parameters = model.parameters()
    return sum(
        weight.nbytes for weight in parameters if weight.requires_grad or not isinstance(model, PeftModel)
    )


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
    if folder.is_dir():
        check_links(folder)
    if (folder / "adapter_config.json").is_file():
        return load_adapter(model, folder)
    if (folder / "config.json").is_file():
        return load_weights(folder, dtype, trust_remote_code, is_exact=True)
    return None
