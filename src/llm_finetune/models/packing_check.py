"""Verifies on the model itself that packed records do not attend to each other.

A row holds whole records one after another; their positions start again at 0. Most models of transformers
build their attention mask from those positions; one that does not would silently mix the records of a row.
The check compares the outputs of two short records, together and apart, in evaluation and training mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llm_finetune.errors import ModelError
from llm_finetune.kernels.equivalence_check import on_trial
from llm_finetune.models.config_limits import CONFIG
from llm_finetune.models.library_errors import blamed
from llm_finetune.models.tiny_model import twin

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Above any rounding, far below what a leak changes.
TOLERANCES = {torch.float32: 0.01, torch.bfloat16: 0.05}
TWIN_TOLERANCE = 1e-3


def keeps_apart(config: PretrainedConfig, max_length: int, trust_remote_code: bool) -> bool:
    """Whether records may share a row of this model, tried on a small twin before the weights are read.

    True also where no twin can be made: `check_isolation` then decides on the model itself.

    Args:
        max_length: positions of a row.
    """
    chunk = getattr(config.get_text_config(), "attention_chunk_size", None)
    if isinstance(chunk, int) and 0 < chunk < max_length:
        return False  # attention is cut at the row's positions, not at the record's
    try:
        small = twin(config, trust_remote_code)
        difference = _difference(small, small.config.get_text_config().vocab_size)
    except Exception:  # whatever a model's own code raises at sizes that it was not made for
        return True
    return not difference > TWIN_TOLERANCE


def check_runs(model: Any, vocab_size: int) -> None:
    """Raises ModelError where the model cannot be run, or its outputs are NaN or infinite.

    Args:
        model: takes input_ids and position_ids of shape (rows, positions).
        vocab_size: token ids are drawn from below it.
    """
    (_, second), positions = _records(vocab_size)
    for training in (False, True):
        with (
            torch.no_grad(),
            blamed(f"{model.config.name_or_path}/{CONFIG}", "the model that it describes cannot be run"),
            on_trial(model, training=training),
        ):
            logits = model(input_ids=second, position_ids=positions, use_cache=False).logits
        if not logits.isfinite().all():
            raise ModelError(
                "the base model's outputs are NaN or infinite: its weights are broken; "
                "download or convert it again"
            )


def check_isolation(model: Any, vocab_size: int) -> None:
    """Raises ModelError where outputs change with what stands before a record in its row.

    Args:
        model: one that runs.
    """
    difference = _difference(model, vocab_size)
    if not difference <= TOLERANCES.get(next(model.parameters()).dtype, 0.05):
        raise ModelError(
            "distributed.train.datasetConcatenation: this model lets records of one row see each other "
            f"(outputs differ by {difference:.1%}); set it to false"
        )


@torch.no_grad()
def _difference(model: Any, vocab_size: int) -> float:
    """By how much, relative, a record's outputs change with one before it."""
    (first, second), positions = _records(vocab_size)
    row, row_positions = torch.cat([first, second], dim=1), torch.cat([positions, positions], dim=1)
    differences = []
    for training in (False, True):
        with on_trial(model, training=training):
            together = model(input_ids=row, position_ids=row_positions, use_cache=False).logits[:, 12:]
            apart = model(input_ids=second, position_ids=positions, use_cache=False).logits
        differences.append(float((together.double() - apart.double()).norm() / apart.double().norm()))
    return max(differences)


def _records(vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two short records, and the positions of each."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocab_size, (2, 1, 12), generator=generator), torch.arange(12).unsqueeze(0)
