"""Settings: what the values files and the --set options say, checked and frozen."""

from __future__ import annotations

from llm_finetune.config.handover import handed_on, handing_on
from llm_finetune.config.loader import Loaded, from_values, load, load_merged
from llm_finetune.config.schema import (
    BenchmarkSettings,
    EvalSettings,
    QuantizeSettings,
    Settings,
)
from llm_finetune.config.single_stage import only
from llm_finetune.config.train_schema import TrainSettings

__all__ = [
    "BenchmarkSettings",
    "EvalSettings",
    "Loaded",
    "QuantizeSettings",
    "Settings",
    "TrainSettings",
    "from_values",
    "handed_on",
    "handing_on",
    "load",
    "load_merged",
    "only",
]
