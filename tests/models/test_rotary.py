"""Where frequencies depend on a text's length, a record is turned by those of its own and of no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_finetune.errors import ModelError
from llm_finetune.models.rotary import check_lengths_apart, keep_lengths_apart
from tiny_model import VOCABULARY, tiny_model

SHORT, LONG, LONGER = 10, 24, 31
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.0, 1.0, 1.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 16,
    "factor": 2.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}


def model_with(rope: dict[str, Any], apart: bool = True) -> Any:
    context = {"max_position_embeddings": 16 if rope is DYNAMIC else 32}
    model = tiny_model("llama", rope_parameters=rope, **context)
    for weight in model.parameters():
        weight.data *= 10 if weight.dim() > 1 else 1  # else attention hardly looks at positions
    if apart:
        keep_lengths_apart(model)
    return model


def tokens(length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def logits(model: Any, *rows: tuple[int, ...]) -> list[torch.Tensor]:
    """Of each record, from its length, in rows of equal lengths."""
    ids = torch.cat([torch.cat([tokens(length) for length in row], 1) for row in rows])
    positions = torch.cat([torch.cat([torch.arange(length) for length in row]).unsqueeze(0) for row in rows])
    result = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return [part for row, out in zip(rows, result, strict=True) for part in out.split(list(row))]


@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
@pytest.mark.parametrize(
    "rows",
    [
        ((SHORT, LONG, LONGER),),
        ((LONGER, SHORT, LONG),),
        ((SHORT, LONGER - SHORT), (LONGER,)),  # a long one in the next row
    ],
)
def test_a_record_is_the_same_alone_and_beside_a_long_one(
    rope: dict[str, Any], rows: tuple[tuple[int, ...], ...]
) -> None:
    model = model_with(rope)
    together = logits(model, *rows)
    for length, found in zip([length for row in rows for length in row], together, strict=True):
        (alone,) = logits(model_with(rope), (length,))  # a model that never saw another
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_the_models_own_way_would_change_it(rope: dict[str, Any]) -> None:
    """Otherwise the test above would show nothing."""
    (alone,) = logits(model_with(rope), (SHORT,))
    beside = logits(model_with(rope, apart=False), (SHORT, LONG))[0]
    assert (alone - beside).norm() / alone.norm() > 0.01


def test_code_of_its_own_that_hides_its_lengths_is_refused_above_them() -> None:
    model = model_with(LONGROPE)
    check_lengths_apart(model, 32)
    for module in model.modules():
        if hasattr(module, "rope_type"):
            del module.rope_type
    check_lengths_apart(model, 16)
    with pytest.raises(ModelError, match=r"maxSeqLength: found 17, but above 16 .* write 16 or less"):
        check_lengths_apart(model, 17)
