"""Rows of records dealt to the ranks as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from llm_finetune.data import PackedSequence, Split
from llm_finetune.data.prepared_dataset import IGNORE_INDEX


@dataclass(frozen=True)
class StepShape:
    """How the rows of an optimizer step are dealt.

    Attributes:
        batch_size: rows a rank takes at once.
        accumulation: how often it does so in a step.
        ranks: how many do so side by side.
    """

    batch_size: int
    accumulation: int
    ranks: int

    @property
    def rows(self) -> int:
        return self.batch_size * self.accumulation * self.ranks


def shape_of(rows: int, ranks: int, batch_size: int) -> StepShape:
    """The shape for so many ranks whose steps come nearest to `rows`, from below.

    Args:
        rows: rows a step should have; at least one a rank.
        batch_size: rows that a rank takes at once, at most.
    """
    shapes = (StepShape(size, rows // (ranks * size), ranks) for size in range(1, batch_size + 1))
    return max(shapes, key=lambda shape: (shape.rows, shape.batch_size))


class RowDataset(Dataset[PackedSequence]):
    """A prepared split as torch's DataLoader takes it."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> PackedSequence:
        return self.split[index]


class DistributedBatchSampler(Sampler[list[int]]):
    """Deals an epoch's batches to the ranks in turn: batch k of the epoch goes to rank k modulo size.

    The order of rows depends on seed and epoch alone, so two ranks see in one step what one rank sees in two,
    and what a group of some size has begun, one of another size can go on with. No row comes twice and none
    is left out: where the last round has no batch for a rank, it gets an empty one.

    Args:
        rows: rows in the split.
        batch_size: rows a batch.
        seed: of the shuffle; None keeps the order.
    """

    def __init__(self, rows: int, batch_size: int, rank: int, size: int, seed: int | None) -> None:
        self.rows, self.batch_size, self.rank, self.size, self.seed = rows, batch_size, rank, size, seed
        self.begin(0, 0)

    def begin(self, epoch: int, row: int) -> None:
        """The next iteration deals this epoch's rows, in their order, from the given one on."""
        self._order = self._shuffled(epoch)[row:]

    def batch(self, turn: int) -> list[int]:
        """The rows that this rank is dealt in the given turn, counted from 0."""
        start = (turn * self.size + self.rank) * self.batch_size
        return self._order[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-len(self._order) // (self.batch_size * self.size))

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.batch, range(len(self)))

    def _shuffled(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(self.rows))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(self.rows, generator=generator).tolist()


class _RankAndSize(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


def make_dataloader(
    split: Split, batch_size: int, ranks: _RankAndSize, pad_id: int, shuffle_seed: int | None
) -> DataLoader[PackedSequence]:
    """A loader of this rank's batches; each is what `collate` returns."""
    batches = DistributedBatchSampler(len(split), batch_size, ranks.rank, ranks.size, shuffle_seed)
    return DataLoader(RowDataset(split), batch_sampler=batches, collate_fn=lambda rows: collate(rows, pad_id))


def collate(rows: Sequence[PackedSequence], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows as tensors of shape (rows, positions of the longest).

    Positions start again at 0 with each record, and padding is a record of its own without labels: no mask is
    needed, since the model tells records apart by their positions.

    Returns:
        input_ids, position_ids, labels, and tokens: how many positions are tokens of records, a scalar.
    """
    width = max((len(row) for row in rows), default=2)
    shape = (max(len(rows), 1), width)
    input_ids = torch.full(shape, pad_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX)
    tokens = 0
    for index in range(shape[0]):
        start = 0
        for segment in rows[index].samples if rows else ():
            end = start + len(segment.input_ids)
            input_ids[index, start:end] = torch.from_numpy(segment.input_ids.astype("int64"))
            position_ids[index, start:end] = torch.arange(end - start)
            labels[index, start:end] = torch.from_numpy(segment.labels)
            start = end
        position_ids[index, start:] = torch.arange(width - start)
        tokens += start
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "labels": labels,
        "tokens": torch.tensor(tokens),
    }
