"""Validation: where its records come from, and that no record is on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import Prepare, instructions, whole_text, write_json

from llm_finetune.data import Prepared, Source
from llm_finetune.errors import DataError

ROWS = instructions(100)


def sides(result: Prepared, tokenizer: Any) -> tuple[list[str], list[str]]:
    assert result.validation is not None
    train, validation = (
        sorted(text for row in split for text in whole_text(row, tokenizer))
        for split in (result.train, result.validation)
    )
    return train, validation


def test_a_share_of_the_distinct_records_goes_to_validation(prepared: Prepare, tokenizer: Any) -> None:
    train, validation = sides(prepared(ROWS, validation_share=0.2), tokenizer)
    assert (len(train), len(validation)) == (80, 20)


def test_duplicates_are_never_on_both_sides(prepared: Prepare, tokenizer: Any) -> None:
    train, validation = sides(prepared(ROWS * 3, validation_share=0.2), tokenizer)
    assert len(train) + len(validation) == 300
    assert not set(train) & set(validation)
    assert len(set(validation)) == 20


def test_the_split_depends_on_content_and_seed_alone(prepared: Prepare, tokenizer: Any) -> None:
    once = sides(prepared(ROWS, validation_share=0.2), tokenizer)
    assert sides(prepared(ROWS[::-1], validation_share=0.2), tokenizer) == once
    assert sides(prepared(ROWS, validation_share=0.2, seed=7), tokenizer) != once


def test_records_of_the_validation_file_are_not_trained_on(
    prepared: Prepare, tokenizer: Any, tmp_path: Path
) -> None:
    held_out = Source(files=write_json(tmp_path / "held-out.json", ROWS[:10] * 2))
    result = prepared(ROWS, validation=(held_out,), validation_share=0.2)
    train, validation = sides(result, tokenizer)
    assert (len(train), len(validation)) == (90, 20)
    assert not set(train) & set(validation)
    assert result.summary.kept_for_validation_only == 10
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepared(ROWS[:5], validation=(held_out,))


def test_no_validation(prepared: Prepare, tmp_path: Path) -> None:
    held_out = (Source(files=write_json(tmp_path / "held-out.json", ROWS[:10])),)
    for plan in ({"validation_share": 0.0}, {"with_validation": False, "validation": held_out}):
        result = prepared(ROWS, **plan)
        assert result.validation is None
        assert result.summary.validation is None
        assert result.summary.train.records == 100


def test_max_samples_takes_the_first_after_the_split(prepared: Prepare, tokenizer: Any) -> None:
    whole = prepared(ROWS, validation_share=0.2, packing=False)
    few = prepared(ROWS, validation_share=0.2, packing=False, max_samples=7, max_validation_samples=3)
    assert [whole_text(row, tokenizer) for row in few.train] == [
        whole_text(whole.train[i], tokenizer) for i in range(7)
    ]
    assert few.validation is not None
    assert whole.validation is not None
    assert [whole_text(row, tokenizer) for row in few.validation] == [
        whole_text(whole.validation[i], tokenizer) for i in range(3)
    ]


@pytest.mark.parametrize(
    ("rows", "share"), [(ROWS[:1], 0.5), (ROWS[:1] * 9, 0.5), (ROWS[:3], 0.1), (ROWS[:3], 0.9)]
)
def test_too_few_records_for_two_sides_are_refused(prepared: Prepare, rows: list[Any], share: float) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        prepared(rows, validation_share=share)
