"""Metrics over a model's answers: a function, which way is better, and how a value is shown.

An entry in `METRICS` is all that a metric takes: eval_results.json, the report and the log go by that list.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any, Literal

import regex

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


class WordTokenizer:
    """Words of any script for rouge_score, whose own tokenizer drops all but ASCII; on ASCII they agree."""

    # Scripts without spaces between words: there a character, with its marks, counts as one.
    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    joiners = r"\u200c\u200d"  # stand within words
    word = regex.compile(rf"[{unspaced}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}{joiners}]--[{unspaced}]]+", regex.V1)

    def tokenize(self, text: str) -> list[str]:
        """The words of the text, without regard to case."""
        return list(self.word.findall(unicodedata.normalize("NFKC", text.casefold())))


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # takes a second to import

    return RougeScorer(["rougeL"], tokenizer=WordTokenizer())


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L (Lin 2004): the F-measure of the longest common subsequence of words, 0 to 1.

    Precision and recall count alike.
    """
    return float(_rouge_scorer().score(expected, answer)["rougeL"].fmeasure)


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
