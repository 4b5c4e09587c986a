"""A round: one start of all ranks, from joining to leaving."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """What a worker has to know to start its ranks.

    Attributes:
        number: rounds of a job are counted from 1 on.
        group_rank: this worker's place among the workers of the round; the first holds rank 0.
        group_size: how many workers take part.
        master_addr, master_port: where rank 0 opens the store.
    """

    number: int
    group_rank: int
    group_size: int
    master_addr: str
    master_port: int
