"""A round: one start of all ranks, from joining to leaving."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from llm_finetune.runtime.ranks import HIGHEST_PORT

MOST = 10**9  # rounds, and workers
ADDRESS = re.compile(r"[0-9A-Za-z.:%_-]{1,253}")


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

    @classmethod
    def from_word(cls, word: Any) -> Round | None:
        """A round that the coordinator tells of; None where no coordinator says such a thing."""
        names = [field.name for field in fields(cls)]
        if not isinstance(word, dict) or word.keys() != set(names):
            return None
        number, rank, size, address, port = (word[name] for name in names)
        if not all(type(one) is int for one in (number, rank, size, port)) or not isinstance(address, str):
            return None
        fits = 0 < number <= MOST and 0 <= rank < size <= MOST and 0 < port <= HIGHEST_PORT
        return cls(**word) if fits and ADDRESS.fullmatch(address) else None
