"""Which records share a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def pack(lengths: Ints, max_length: int) -> tuple[Ints, Ints]:
    """Put whole records into few rows: the longest one left, and those that fill the rest of its row best.

    This is the minimum-bin-slack heuristic (Gupta and Ho 1999) over lengths instead of records: records of
    one length are the same to it, so one choice serves as many rows as the counts allow, and the work grows
    with the number of distinct lengths. Where all records share a prompt it leaves a tenth of what best-fit
    decreasing leaves empty.

    Args:
        lengths: tokens of each record, from 1 to `max_length`.
        max_length: tokens of a row.

    Returns:
        records, the numbers of the records row after row, and offsets: row i holds
        records[offsets[i]:offsets[i + 1]].
    """
    counts = np.bincount(lengths, minlength=max_length + 1)
    by_length = np.argsort(lengths, kind="stable")
    # Where in by_length those of each length begin that are left.
    taken = (np.cumsum(counts) - counts).tolist()
    left = counts.tolist()
    distinct = np.flatnonzero(counts)[::-1].tolist()
    row_of = np.empty(len(lengths), np.int64)
    rows = 0
    while distinct:
        uses = _fullest_row(distinct, left, max_length)
        times = min(left[length] // use for length, use in uses.items())
        for length, use in uses.items():
            records = by_length[taken[length] : taken[length] + times * use]
            row_of[records] = np.repeat(np.arange(rows, rows + times), use)
            taken[length] += times * use
            left[length] -= times * use
            if not left[length]:
                distinct.remove(length)
        rows += times
    return np.argsort(row_of, kind="stable"), _offsets(np.bincount(row_of, minlength=rows))


def unpacked(lengths: Ints) -> tuple[Ints, Ints]:
    """The same shape without packing: each record has its own row."""
    return np.arange(len(lengths)), np.arange(len(lengths) + 1)


def _fullest_row(distinct: list[int], left: list[int], max_length: int) -> dict[int, int]:
    """How often each length stands in the next row: the longest once, the others by subset sum.

    Bit i of `reachable` says that some of the records looked at so far have i tokens together. Longer ones
    are looked at first, and it ends once less than a thousandth of the row is empty: so short ones are saved
    for later rows.
    """
    longest = distinct[0]
    space = max_length - longest
    enough = max(space - (max_length >> 10), 0)
    within = (2 << space) - 1
    reachable = 1
    steps: list[tuple[int, int]] = []
    for length in distinct:
        before = reachable
        for _ in range(min(left[length] - (length == longest), space // length)):
            reachable |= (reachable << length) & within
            if reachable >> enough:
                break
        steps.append((length, before))
        if reachable >> enough:
            break
    uses = {longest: 1}
    total = reachable.bit_length() - 1
    for length, before in reversed(steps):
        while not before >> total & 1:
            uses[length] = uses.get(length, 0) + 1
            total -= length
    return uses


def _offsets(counts: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
