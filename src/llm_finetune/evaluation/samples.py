"""Evaluation samples: what the model answers to validation prompts, held against what it should have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llm_finetune.data import Segment, Split
from llm_finetune.generation.detokenization import answers
from llm_finetune.generation.load import end_ids
from llm_finetune.kernels.precision import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One validation prompt.

    Attributes:
        expected: the record's answer; of a conversation, the first.
        answer: the model's.
    """

    prompt: str
    expected: str
    answer: str


def sample_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    *,
    count: int,
    max_new_tokens: int,
    batch_size: int,
    precision: Precision,
) -> list[Sample]:
    """The greedy answers to the first prompts of the split, in the order of its files.

    Args:
        split: records with a prompt before their answer, of which the answer alone is trained on; others
            (plain text, or with lossOnPrompt) do not say where an answer begins and are passed over.
        count: records to look at.
        max_new_tokens: tokens of an answer at most.
        batch_size: prompts that are answered at once.
    """
    asked = [parts for segment in split.first_records(count) if (parts := _parted(segment))]
    was_training = model.training
    model.eval()
    with precision.context():
        given = answers(
            model,
            tokenizer,
            [prompt for prompt, _ in asked],
            max_new_tokens=max_new_tokens,
            end_ids=end_ids(model, tokenizer),
            batch_size=batch_size,
        )
    model.train(was_training)

    return [
        Sample(_text(prompt, tokenizer), _text(expected, tokenizer), answer)
        for (prompt, expected), answer in zip(asked, given, strict=True)
    ]


def scores(samples: Sequence[Sample]) -> dict[str, float]:
    """`rouge_l` and `exact_match` (equal but for white space around), means over the samples, 0 to 1."""
    return {
        "rouge_l": fmean(rouge_l(sample.expected, sample.answer) for sample in samples),
        "exact_match": fmean(sample.expected.strip() == sample.answer.strip() for sample in samples),
    }


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L (Lin 2004): the F-measure of the longest common subsequence of words, 0 to 1.

    Words are runs of letters and digits of any script, in any case; precision and recall count alike.
    """
    wanted, given = (re.findall(r"\w+", text.casefold()) for text in (expected, answer))
    common = _longest_common_subsequence(wanted, given)
    return 2 * common / (len(wanted) + len(given)) if common else 0.0


def side_by_side(base: Sequence[Sample], tuned: Sequence[Sample]) -> list[dict[str, str | None]]:
    """The samples of both models as eval_results.json holds them.

    Args:
        base, tuned: of the same prompts; either may be empty, where that model was not asked.
    """
    shown = base or tuned
    return [
        {
            "prompt": sample.prompt,
            "expected": sample.expected,
            "base": base[i].answer if base else None,
            "tuned": tuned[i].answer if tuned else None,
        }
        for i, sample in enumerate(shown)
    ]


def _parted(segment: Segment) -> tuple[list[int], list[int]] | None:
    """The tokens before the first answer, and that answer's; None where the record does not tell."""
    trained = segment.labels >= 0
    start = int(trained.argmax())
    if start < 2:
        # Nothing predicts the first token: with a label at the second, all is trained on.
        return None
    length = int((~trained[start:]).argmax()) or len(trained) - start
    ids = segment.input_ids.tolist()
    return ids[:start], ids[start : start + length]


def _text(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    if ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        above = row
        row = [0]
        for i, other in enumerate(second):
            row.append(above[i] + 1 if word == other else max(above[i + 1], row[i]))
    return row[-1]
