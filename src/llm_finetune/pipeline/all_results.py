"""The figures of training and evaluation in one file, as transformers' example scripts leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import RootModel

from llm_finetune.evaluation.result import EvaluationResult
from llm_finetune.storage.result import Result
from llm_finetune.training.result import TrainingResult


class AllResults(Result, RootModel[dict[str, Any]]):
    """The keys of train_results.json and of eval_results.json."""

    file_name = "all_results.json"


def write_all_results(folder: Path, evaluation: EvaluationResult | None = None) -> None:
    """Writes all_results.json from the evaluation and from what the training left in the folder."""
    found = (TrainingResult.read(folder), evaluation)
    AllResults({key: value for result in found if result for key, value in result.to_json().items()}).write(
        folder
    )
