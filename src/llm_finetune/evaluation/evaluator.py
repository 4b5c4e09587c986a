"""What the evaluation says of the base and of the tuned model: loss, perplexity, and a few answers."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llm_finetune.config import EvalSettings
from llm_finetune.data import Split
from llm_finetune.distributed import Group
from llm_finetune.errors import LossError, ModelError, UserError
from llm_finetune.evaluation.perplexity import Evaluation, evaluate
from llm_finetune.evaluation.samples import Sample, sample_answers, scores, side_by_side
from llm_finetune.kernels.precision import Precision
from llm_finetune.storage import results
from llm_finetune.storage.result_schemas import read_result

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelEvaluation:
    """What the evaluation says of one model.

    Attributes:
        samples: its answers to a few validation prompts; rank 0 alone asks.
    """

    loss: Evaluation
    samples: list[Sample]

    def to_json(self) -> dict[str, float]:
        return {**self.loss.to_json(), **(scores(self.samples) if self.samples else {})}


def judge(
    name: str,
    model: torch.nn.Module,
    validation: Split,
    settings: EvalSettings,
    *,
    tokenizer: PreTrainedTokenizerBase,
    pad_id: int,
    precision: Precision,
    group: Group,
) -> ModelEvaluation:
    """Judges a model on the validation rows.

    Args:
        name: what the log calls it: base or tuned.

    Raises:
        UserError: its loss is no number.
    """
    batch_size = settings.per_device_batch_size
    loss = evaluate(model, validation, batch_size=batch_size, pad_id=pad_id, precision=precision, group=group)
    if not math.isfinite(loss.loss):
        raise _not_finite(name, loss.loss)
    log.info("%s model: validation loss %.4f, perplexity %.4g", name, loss.loss, loss.perplexity)
    samples: list[Sample] = []
    if group.ranks.is_main_process and settings.generate_samples:
        samples = sample_answers(
            model,
            tokenizer,
            validation,
            count=settings.generate_samples,
            max_new_tokens=settings.max_new_tokens,
            batch_size=batch_size,
            precision=precision,
        )
    return ModelEvaluation(loss, samples)


def _not_finite(name: str, loss: float) -> UserError:
    told = f"the {name} model's validation loss is {loss}"
    if name == "base":
        return ModelError(f"{told}: its weights are broken; download or convert it again")
    return LossError(f"{told}: lower distributed.train.learningRate and start anew with --fresh")


def keep(judged: ModelEvaluation, deciding: dict[str, Any], folder: Path) -> None:
    """Leaves what was said of the base model, so that a restart need not ask again.

    Args:
        deciding: all that decides it.
    """
    results.write_result(folder / results.BASE, {"deciding": deciding, "judged": asdict(judged)})


def kept(folder: Path) -> ModelEvaluation:
    """What `keep` left."""
    judged = read_result(folder / results.BASE)["judged"]
    return ModelEvaluation(Evaluation(**judged["loss"]), [Sample(**sample) for sample in judged["samples"]])


def write_results(folder: Path, base: ModelEvaluation | None, tuned: ModelEvaluation | None) -> None:
    """eval_results.json, and all_results.json with what the training left beside it."""
    judged = tuned or base
    evaluation: dict[str, Any] = {}
    if judged:
        evaluation = {
            "eval_loss": judged.loss.loss,
            "perplexity": judged.loss.perplexity,
            "base": base.to_json() if base else None,
            "tuned": tuned.to_json() if tuned else None,
            "samples": side_by_side(base.samples if base else [], tuned.samples if tuned else []),
        }
        results.write_result(folder / results.EVAL, evaluation)
    training = read_result(folder / results.TRAIN)
    results.write_result(folder / results.ALL, {**training, **evaluation})
