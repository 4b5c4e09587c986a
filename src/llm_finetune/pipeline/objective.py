"""Which objective the settings ask for."""

from __future__ import annotations

from llm_finetune.config import Settings
from llm_finetune.objectives.base import Objective
from llm_finetune.objectives.sft import Sft


def objective_of(settings: Settings) -> Objective:
    """The objective, with what the settings say of it."""
    return Sft()
