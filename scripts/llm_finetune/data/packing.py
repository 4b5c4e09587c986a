"""Which records share a row."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def pack(lengths: Ints, max_length: int) -> tuple[Ints, Ints]:
    """Put whole records into as few rows as best fit finds.

    Best-fit decreasing: the longest first, each into the row that it fills best. Records of one length are
    the same to it, and so are rows of one free space; it moves them in groups, so the work grows with the
    number of distinct lengths, not of records.

    Args:
        lengths: tokens of each record, from 1 to `max_length`.
        max_length: tokens of a row.

    Returns:
        records, the numbers of the records row after row, and offsets: row i holds
        records[offsets[i]:offsets[i + 1]].
    """
    by_length = np.argsort(-lengths, kind="stable")
    counts = np.bincount(lengths, minlength=max_length + 1)
    row_of = np.empty(len(lengths), np.int64)
    open_rows: defaultdict[int, list[Ints]] = defaultdict(list)  # by free space
    spaces = 0  # bit i: there is a row with i tokens free
    rows = placed = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = spaces >> length
            if fitting:
                space = length + (fitting & -fitting).bit_length() - 1
                group = open_rows[space].pop()
                if not open_rows[space]:
                    spaces ^= 1 << space
            else:
                space = max_length
                group = np.arange(rows, rows - (-left // (max_length // length)))
                rows += len(group)
            used, unused = group[:left], group[left:]
            row_of[by_length[placed : placed + len(used)]] = used
            placed += len(used)
            left -= len(used)
            for part, free in ((unused, space), (used, space - length)):
                if len(part):
                    open_rows[free].append(part)
                    spaces |= 1 << free
    return np.argsort(row_of, kind="stable"), _offsets(np.bincount(row_of, minlength=rows))


def one_a_row(lengths: Ints) -> tuple[Ints, Ints]:
    """The same shape without packing: each record has its own row."""
    return np.arange(len(lengths)), np.arange(len(lengths) + 1)


def _offsets(counts: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
