"""Which number formats the weights and the arithmetic have."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """Formats of one run.

    Attributes:
        weights: what the base model is loaded in.
        autocast: run matrix products in bf16 above weights of another format.
    """

    weights: torch.dtype
    autocast: bool

    def context(self) -> AbstractContextManager[object]:
        """Entered around each forward pass."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.autocast)


def choose_precision(bf16: bool, trains_all_weights: bool) -> Precision:
    """bf16 weights where they stay frozen; fp32 masters under autocast where they are trained.

    An update of full fine-tuning is often smaller than the last bit of a bf16 weight and would be lost.
    """
    if not bf16:
        return Precision(torch.float32, autocast=False)
    if trains_all_weights:
        return Precision(torch.float32, autocast=True)
    return Precision(torch.bfloat16, autocast=False)
