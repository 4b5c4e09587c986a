"""Packing: every record once, no row too long, few empty positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_finetune.data.packing import pack, unpacked


@st.composite
def lengths_and_maximum(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    maximum = draw(st.integers(1, 700))
    return np.array(draw(st.lists(st.integers(1, maximum), min_size=1, max_size=200))), maximum


@given(lengths_and_maximum())
def test_every_record_is_in_one_row_and_no_row_is_too_long(case: tuple[np.ndarray, int]) -> None:
    lengths, maximum = case
    records, offsets = pack(lengths, maximum)
    assert sorted(records.tolist()) == list(range(len(lengths)))
    sums = np.add.reduceat(lengths[records], offsets[:-1])
    assert offsets[0] == 0
    assert offsets[-1] == len(lengths)
    assert (np.diff(offsets) >= 1).all()
    assert sums.max() <= maximum
    assert sums.sum() == lengths.sum()


@given(lengths_and_maximum())
def test_at_most_one_row_is_half_empty(case: tuple[np.ndarray, int]) -> None:
    lengths, maximum = case
    records, offsets = pack(lengths, maximum)
    assert (np.add.reduceat(lengths[records], offsets[:-1]) * 2 <= maximum).sum() <= 1


@pytest.mark.parametrize("maximum", [512, 2048])
def test_few_positions_stay_empty(maximum: int) -> None:
    random = np.random.default_rng(1)
    # A prompt that all records share, and answers of very different lengths.
    lengths = np.clip(60 + random.lognormal(4.3, 0.7, 5_000), 20, maximum).astype(np.int64)
    rows = len(pack(lengths, maximum)[1]) - 1
    assert 1 - lengths.sum() / (rows * maximum) < 0.02


def test_the_same_lengths_give_the_same_rows() -> None:
    lengths = np.random.default_rng(2).integers(1, 300, 5000)
    first, second = pack(lengths, 512), pack(lengths.copy(), 512)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_packing_each_record_has_its_own_row() -> None:
    records, offsets = unpacked(np.array([3, 1, 2]))
    assert records.tolist() == [0, 1, 2]
    assert offsets.tolist() == [0, 1, 2, 3]
