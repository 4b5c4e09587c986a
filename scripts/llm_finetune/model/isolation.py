"""The proof, on the model itself, that records which share a row do not see each other.

A row holds whole records one after another, told apart by positions that start again at 0. Most models of
transformers build their attention mask from those positions; one that does not would mix the records of a
row without a word. Two short records, together and apart, tell, as in evaluation and as in training.
"""

from __future__ import annotations

import torch

from llm_finetune.errors import ModelError
from llm_finetune.model.trial import on_trial

# Above any rounding of bf16 in a few layers, far below what a leak changes.
TOLERANCE = 0.05


@torch.no_grad()
def check_isolation(model: torch.nn.Module, vocab_size: int) -> None:
    """Raises ModelError where outputs change with what stands before a record in its row, or are no numbers.

    Args:
        model: takes input_ids and position_ids of shape (rows, positions).
        vocab_size: token ids are drawn from below it.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, vocab_size, (2, 1, 12), generator=generator)
    positions = torch.arange(12).unsqueeze(0)
    row, row_positions = torch.cat([first, second], dim=1), torch.cat([positions, positions], dim=1)
    for training in (False, True):
        with on_trial(model, training=training):
            together = model(input_ids=row, position_ids=row_positions, use_cache=False).logits[:, 12:]
            apart = model(input_ids=second, position_ids=positions, use_cache=False).logits
        _check_equal(together, apart)


def _check_equal(together: torch.Tensor, apart: torch.Tensor) -> None:
    if not apart.isfinite().all():
        raise ModelError(
            "the base model's outputs are no numbers (nan, or infinite): its weights are broken; download or "
            "convert it again"
        )
    difference = (together.float() - apart.float()).norm() / apart.float().norm()
    if not difference <= TOLERANCE:
        raise ModelError(
            "distributed.train.datasetConcatenation: this model lets records of one row see each other "
            f"(outputs differ by {difference:.1%}); set it to false"
        )
