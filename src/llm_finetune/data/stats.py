"""What a prepared set holds, in figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SplitSummary:
    """One split.

    Attributes:
        files: names of the files of each source.
        records: records as they were read.
        tokens: tokens of records.
        trained_tokens: those that something is learned from.
        truncated_prompts: records whose prompt lost its left.
        cut_answers: records whose answer lost its end.
        split_records: records in several pieces.
        taken_apart: conversations in several sequences, one for each answer.
        control_words: records whose text holds words of special tokens, which are read as plain text.
        lost_thoughts: answers whose thoughts the chat template leaves out.
        rows: rows of the split.
        positions: rows times the longest row.
        longest: tokens of the longest record, before anything was cut.
        length_percentiles: tokens of a record, before anything was cut: p50, p90, p99.
        digest: of the rows, by content.
    """

    files: list[list[str]]
    records: int
    tokens: int
    trained_tokens: int
    truncated_prompts: int
    cut_answers: int
    split_records: int
    taken_apart: int
    control_words: int
    lost_thoughts: int
    rows: int
    positions: int
    longest: int
    length_percentiles: dict[str, int]
    digest: str

    @property
    def empty_share(self) -> float:
        """Share of the positions that hold no token."""
        return 1 - self.tokens / self.positions


@dataclass(frozen=True)
class Summary:
    """The whole set.

    Attributes:
        prompt_format: alpaca, chat or text.
        prompt_format_reason: why, in words.
        validation_from: where the validation records come from, in words.
        kept_for_validation_only: training records left out since they are validation records as well.
    """

    data_type: str
    prompt_format: str
    prompt_format_reason: str
    max_length: int
    packing: bool
    validation_from: str
    kept_for_validation_only: int
    train: SplitSummary
    validation: SplitSummary | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Summary:
        splits = {
            name: SplitSummary(**values[name]) if values[name] else None for name in ("train", "validation")
        }
        return cls(**{**values, **splits})
