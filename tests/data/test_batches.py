"""Rows dealt to ranks: each once an epoch, in steps of one size, whoever deals them."""

from __future__ import annotations

from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_finetune.data.batches import DistributedBatchSampler, StepShape, shape_of


def dealt(rows: int, shape: StepShape, seed: int, epoch: int, row: int, steps: int | None) -> list[list[int]]:
    """What the first steps from `row` on see, all ranks together."""
    ranks = [
        DistributedBatchSampler(rows, shape.batch_size, rank, shape.ranks, seed)
        for rank in range(shape.ranks)
    ]
    for rank in ranks:
        rank.begin(epoch, row)
    turns = [list(chain(*batches)) for batches in zip(*ranks, strict=True)]
    several = range(0, len(turns), shape.accumulation)
    return [list(chain(*turns[turn : turn + shape.accumulation])) for turn in several][:steps]


@given(
    rows=st.integers(1, 200),
    wanted=st.integers(8, 40),
    groups=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6), st.integers(1, 4)), min_size=1),
    epoch=st.integers(0, 3),
)
@settings(deadline=None)
def test_no_row_comes_twice_or_is_missed_when_the_group_changes_in_an_epoch(
    rows: int, wanted: int, groups: list[tuple[int, int, int]], epoch: int
) -> None:
    """Each group, of so many ranks and so large batches, makes a few steps; the last one finishes."""
    seen: list[int] = []
    for number, (ranks, batch_size, steps) in enumerate(groups):
        shape = shape_of(wanted, ranks, batch_size)
        last = number == len(groups) - 1
        for step in dealt(rows, shape, 7, epoch, len(seen), None if last else steps):
            assert len(step) <= shape.rows
            seen += step
    assert sorted(seen) == list(range(rows))


@given(
    rows=st.integers(1, 60),
    first=st.sampled_from([(1, 12), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)]),
    other=st.sampled_from([(1, 1), (2, 3), (3, 2), (4, 1), (6, 2)]),
)
@settings(deadline=None)
def test_groups_that_divide_the_step_see_the_same_rows_in_each(
    rows: int, first: tuple[int, int], other: tuple[int, int]
) -> None:
    one, two = (shape_of(12, ranks, batch_size) for ranks, batch_size in (first, other))
    assert one.rows == two.rows == 12
    steps = [[sorted(step) for step in dealt(rows, shape, 7, 0, 0, None)] for shape in (one, two)]
    assert steps[0] == steps[1]


@given(wanted=st.integers(1, 300), ranks=st.integers(1, 40), batch_size=st.integers(1, 40))
def test_the_shape_is_the_nearest_below_what_is_wanted(wanted: int, ranks: int, batch_size: int) -> None:
    if wanted < ranks:
        return
    shape = shape_of(wanted, ranks, batch_size)
    assert (shape.ranks, shape.batch_size <= batch_size, shape.accumulation >= 1) == (ranks, True, True)
    assert wanted - ranks < shape.rows <= wanted
    assert shape.rows == wanted or wanted % ranks


def test_epochs_are_shuffled_each_anew_and_the_same_again() -> None:
    shape = shape_of(4, 1, 4)
    epochs = [dealt(40, shape, 7, epoch, 0, None) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
