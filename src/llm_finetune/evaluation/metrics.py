"""Metrics over a model's answers: a function, which way is better, and how a value is shown.

An entry in `METRICS` is all that a metric takes: eval_results.json, the report and the log go by that list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from llm_finetune.runtime import formatting


@dataclass(frozen=True)
class Metric:
    """How well an answer matches the one that its record has.

    Attributes:
        key: in eval_results.json.
        title: in the report and in the log.
        score: of one answer, by the expected text and the answer; a model's is the mean over its answers.
        better: which way is better.
        shown: a value as people read it.
    """

    key: str
    title: str
    score: Callable[[str, str], float]
    better: Literal["lower", "higher"]
    shown: Callable[[float], str]


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L (Lin 2004): the F-measure of the longest common subsequence of words, 0 to 1.

    Words are runs of letters and digits of any script, in any case; precision and recall count alike.
    """
    wanted, given = (re.findall(r"\w+", text.casefold()) for text in (expected, answer))
    common = _longest_common_subsequence(wanted, given)
    return 2 * common / (len(wanted) + len(given)) if common else 0.0


def exact_match(expected: str, answer: str) -> float:
    """1 where the texts are equal but for white space around them, else 0."""
    return float(expected.strip() == answer.strip())


METRICS = (
    Metric("rouge_l", "ROUGE-L", rouge_l, "higher", formatting.percent),
    Metric("exact_match", "Exact match", exact_match, "higher", formatting.percent),
)


def mean_scores(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Each metric's mean over (expected, answer) pairs, by its key; empty where there are no pairs."""
    pairs = list(pairs)
    if not pairs:
        return {}
    return {metric.key: fmean(metric.score(*pair) for pair in pairs) for metric in METRICS}


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        above = row
        row = [0]
        for i, other in enumerate(second):
            row.append(above[i] + 1 if word == other else max(above[i + 1], row[i]))
    return row[-1]
