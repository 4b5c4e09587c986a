"""A model that mixes the records of a row is found out before it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_finetune.errors import ModelError
from llm_finetune.model.isolation import check_isolation
from tiny import ARCHITECTURES, VOCABULARY, tiny_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_known_architectures_keep_records_apart(architecture: str, dtype: torch.dtype) -> None:
    check_isolation(tiny_model(architecture).to(dtype), VOCABULARY)


def test_a_model_that_ignores_positions_is_refused() -> None:
    class Leaky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("llama")

        def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **rest: Any) -> Any:
            return self.inner(input_ids=input_ids, **rest)

    with pytest.raises(ModelError, match=r"datasetConcatenation.*set it to false"):
        check_isolation(Leaky(), VOCABULARY)
