"""What an evaluation finds, of one model and of both, and the files that hold it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llm_finetune.evaluation.metrics import METRICS, mean_scores
from llm_finetune.storage.result import Result


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class ValidationLoss(_Part):
    """The objective's figures, over all its items (labels, for supervised fine-tuning) of all ranks.

    Attributes:
        loss: mean over the items; for supervised fine-tuning their negative log-likelihood, in nats.
        tokens: how many items there are.
        metrics: the objective's other figures, means as well.
    """

    loss: float
    tokens: int
    metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """exp(loss), finite for any finite loss."""
        return math.exp(min(self.loss, 700.0))


class Answer(_Part):
    """A model's answer to one validation prompt.

    Attributes:
        expected: the record's answer; of a conversation, the first.
        answer: the model's.
    """

    prompt: str
    expected: str
    answer: str


class ModelScores(_Part):
    """One model's figures in eval_results.json: loss, perplexity, and each metric by its key."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    loss: float
    perplexity: float

    @property
    def metrics(self) -> dict[str, float]:
        """The values of the metrics that this version knows, by key."""
        return {
            metric.key: self.__pydantic_extra__[metric.key]
            for metric in METRICS
            if metric.key in self.__pydantic_extra__
        }


class ModelEvaluation(_Part):
    """The evaluation of one model.

    Attributes:
        samples: its answers to a few validation prompts; rank 0 alone generates them.
    """

    loss: ValidationLoss
    samples: list[Answer]

    @property
    def scores(self) -> ModelScores:
        """Its figures."""
        metrics = mean_scores((sample.expected, sample.answer) for sample in self.samples)
        figures = {"loss": self.loss.loss, "perplexity": self.loss.perplexity, **self.loss.metrics, **metrics}
        return ModelScores.model_validate(figures)


class AnswerPair(_Part):
    """Both models' answers to one validation prompt; None where that model was not asked."""

    prompt: str
    expected: str
    base: str | None
    tuned: str | None


class BaseModelEvaluation(Result):
    """The evaluation of the base model, until the tuned one's is there too.

    Attributes:
        deciding: all that decides it.
    """

    file_name = "base_model_evaluation.json"
    former_name = "base_results.json"

    deciding: dict[str, Any]
    judged: ModelEvaluation


class EvaluationResult(Result):
    """The evaluation of the base and of the tuned model.

    Attributes:
        eval_loss, perplexity: of the tuned model; of the base where that alone was evaluated.
        base, tuned: None where that model was not evaluated.
    """

    file_name = "eval_results.json"

    eval_loss: float
    perplexity: float
    base: ModelScores | None = None
    tuned: ModelScores | None = None
    samples: list[AnswerPair] = Field(default_factory=list)


def compare(base: ModelEvaluation | None, tuned: ModelEvaluation | None) -> EvaluationResult | None:
    """Both evaluations in one result; None where neither model was evaluated."""
    newest = tuned or base
    if newest is None:
        return None
    return EvaluationResult(
        eval_loss=newest.loss.loss,
        perplexity=newest.loss.perplexity,
        base=base.scores if base else None,
        tuned=tuned.scores if tuned else None,
        samples=_side_by_side(base.samples if base else [], tuned.samples if tuned else []),
    )


def _side_by_side(base: Sequence[Answer], tuned: Sequence[Answer]) -> list[AnswerPair]:
    """The answers of both models to the same prompts.

    Args:
        base, tuned: either may be empty, where that model was not asked.
    """
    return [
        AnswerPair(
            prompt=answer.prompt,
            expected=answer.expected,
            base=base[i].answer if base else None,
            tuned=tuned[i].answer if tuned else None,
        )
        for i, answer in enumerate(base or tuned)
    ]
