"""Layout of packed records for attention: end to end, in groups of similar length."""

from __future__ import annotations

from dataclasses import dataclass

import torch

ALIGNMENT = 32
"""Lengths are rounded up to a multiple of this: softmax and matrix products are slow on odd widths."""

MIN_FILL = 0.8
"""A record joins a group if it fills at least this share of the group's longest record."""


@dataclass(frozen=True)
class SegmentGroup:
    """Records that one batched matrix product takes.

    Attributes:
        start: where the group begins in the aligned layout.
        records: how many.
        length: tokens that each has room for.
    """

    start: int
    records: int
    length: int


@dataclass(frozen=True)
class Segments:
    """Records laid end to end in one row.

    Attributes:
        groups: the aligned layout, group after group.
        positions: tokens of the aligned layout.
        slots: int64, shape (tokens,): where each token stands in the aligned layout.
        tokens: int64, shape (positions,): which token stands there; any where none does.
        empty: int64: the positions where none does.
    """

    groups: tuple[SegmentGroup, ...]
    positions: int
    slots: torch.Tensor
    tokens: torch.Tensor
    empty: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor) -> Segments:
        """Plans the layout.

        Args:
            lengths: int64, shape (records,): tokens of each record, in their order.
        """
        rooms, order = (-(-lengths // ALIGNMENT) * ALIGNMENT).sort(descending=True, stable=True)
        groups, starts = [], torch.empty_like(lengths)
        position = first = 0
        sizes = rooms.tolist()
        for number in range(1, len(sizes) + 1):
            if number == len(sizes) or sizes[number] < MIN_FILL * sizes[first]:
                group = SegmentGroup(position, number - first, sizes[first])
                ends = torch.arange(group.records) * group.length + position
                starts[order[first:number]] = ends
                groups.append(group)
                position += group.records * group.length
                first = number
        ends = lengths.cumsum(0)
        inside = torch.arange(int(ends[-1])) - (ends - lengths).repeat_interleave(lengths)
        slots = starts.repeat_interleave(lengths) + inside
        tokens = torch.full((position,), -1)
        tokens[slots] = torch.arange(len(slots))
        empty = (tokens < 0).nonzero().flatten()
        return cls(tuple(groups), position, slots, tokens.clamp(min=0), empty)

    def align(self, tokens: torch.Tensor) -> torch.Tensor:
        """From (tokens, width) to (positions, width), zeros where no token stands."""
        return tokens.index_select(0, self.tokens).index_fill_(0, self.empty, 0)

    def pick(self, aligned: torch.Tensor) -> torch.Tensor:
        """From (positions, width) back to (tokens, width)."""
        return aligned.index_select(0, self.slots)


@dataclass(frozen=True)
class Flat:
    """A batch of rows as one row, without the positions that teach nothing.

    Attributes:
        input_ids: shape (1, tokens).
        position_ids: shape (1, tokens).
        labels: shape (1, tokens).
        segments: of that row.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    segments: Segments


def flatten(input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor, ignored: int) -> Flat:
    """Lays the records of all rows end to end; those without a label, padding among them, are left out.

    Args:
        input_ids: shape (rows, positions).
        position_ids: start again at 0 with each record; same shape.
        labels: `ignored` where nothing is trained; same shape.
    """
    begins = (position_ids == 0).flatten()
    begins[:: position_ids.shape[1]] = True
    record = begins.cumsum(0) - 1
    records = int(record[-1]) + 1
    taught = torch.zeros(records, dtype=torch.bool)
    taught[record[labels.flatten() != ignored]] = True
    if not taught.any():
        taught[0] = True  # an empty batch still takes part in the step
    selected = taught[record]
    lengths = torch.bincount(record, minlength=records)[taught]
    ids, positions, flat_labels = (
        x.flatten()[selected].unsqueeze(0) for x in (input_ids, position_ids, labels)
    )
    return Flat(ids, positions, flat_labels, Segments.of(lengths))
