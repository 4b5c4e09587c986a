"""The evaluation of the base and of the tuned model: loss, perplexity, and metrics over a few answers."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llm_finetune.config import EvalSettings
from llm_finetune.data import Split
from llm_finetune.distributed import Group
from llm_finetune.errors import LossError, ModelError, UserError
from llm_finetune.evaluation.metrics import METRICS
from llm_finetune.evaluation.perplexity import evaluate
from llm_finetune.evaluation.result import BaseModelEvaluation, ModelEvaluation
from llm_finetune.evaluation.samples import sample_answers
from llm_finetune.kernels.precision import Precision
from llm_finetune.objectives.base import Objective

log = logging.getLogger(__name__)


def evaluate_model(
    name: str,
    model: torch.nn.Module,
    validation: Split,
    settings: EvalSettings,
    objective: Objective,
    *,
    tokenizer: PreTrainedTokenizerBase,
    pad_id: int,
    precision: Precision,
    group: Group,
) -> ModelEvaluation:
    """Evaluates a model on the validation rows.

    Args:
        name: in the log: base or tuned.

    Raises:
        UserError: its loss is NaN or infinite.
    """
    batch_size = settings.per_device_batch_size
    loss = evaluate(
        model, validation, objective, batch_size=batch_size, pad_id=pad_id, precision=precision, group=group
    )
    if not math.isfinite(loss.loss):
        raise _not_finite(name, loss.loss)
    others = "".join(f", {metric} {value:.4g}" for metric, value in loss.metrics.items())
    log.info("%s model: validation loss %.4f, perplexity %.4g%s", name, loss.loss, loss.perplexity, others)
    if not group.ranks.is_main_process or not settings.num_generated_samples:
        return ModelEvaluation(loss=loss, samples=[])
    samples = sample_answers(
        model,
        tokenizer,
        validation,
        count=settings.num_generated_samples,
        max_new_tokens=settings.max_new_tokens,
        batch_size=batch_size,
        precision=precision,
    )
    evaluation = ModelEvaluation(loss=loss, samples=samples)
    if samples:
        log.info("%s model: %s, over %d answers", name, _describe_metrics(evaluation), len(samples))
    return evaluation


def _describe_metrics(evaluation: ModelEvaluation) -> str:
    values = evaluation.scores.metrics
    return ", ".join(f"{metric.title} {metric.shown(values[metric.key])}" for metric in METRICS)


def _not_finite(name: str, loss: float) -> UserError:
    found = f"the {name} model's validation loss is {loss}"
    if name == "base":
        return ModelError(f"{found}: its weights are broken; download or convert it again")
    return LossError(f"{found}: lower distributed.train.learningRate and start over with --fresh")


def save_base_evaluation(evaluation: ModelEvaluation, deciding: dict[str, Any], folder: Path) -> None:
    """Saves the evaluation of the base model, so that a restart need not repeat it.

    Args:
        deciding: all that decides it.
    """
    BaseModelEvaluation(deciding=deciding, judged=evaluation).write(folder)


def load_base_evaluation(folder: Path) -> ModelEvaluation | None:
    """What `save_base_evaluation` left."""
    saved = BaseModelEvaluation.read(folder)
    return saved.judged if saved else None
