"""Which records are trained on and which are held out for validation."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from llm_finetune.data.records import Record, content_of
from llm_finetune.errors import DataError

Hashes = NDArray[np.uint64]
Chosen = NDArray[np.bool_]


def content_hash(record: Record, seed: int) -> int:
    """64 bits that equal records share. Their order is a shuffle that the seed decides."""
    key = seed.to_bytes(8, "little", signed=True)
    digest = hashlib.blake2b(content_of(record).encode(), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little")


def held_out(hashes: Hashes, share: float) -> Chosen:
    """Mark the records of the validation part: `share` of the distinct ones, with all their duplicates.

    Raises:
        DataError: there are too few records for two parts.
    """
    distinct = np.unique(hashes)
    count = round(len(distinct) * share)
    if not 0 < count < len(distinct):
        raise DataError(
            f"{len(distinct)} different records cannot be split: {share:g} of them for validation would be "
            f"{count} there and {len(distinct) - count} to train on. Give more records, another "
            "validationFraction (0: no validation), or a validation file."
        )
    chosen: Chosen = hashes <= distinct[count - 1]
    return chosen


def divided(hashes: Hashes, validation_hashes: Hashes, share: float) -> tuple[Chosen, Chosen]:
    """Which records are trained on, and which of them are held out for validation.

    Args:
        hashes: of the training records.
        validation_hashes: of the validation records that have a source of their own; none may be trained on.
        share: to hold out, where there are none.

    Raises:
        DataError: nothing is left for the one or the other.
    """
    if share:
        chosen = held_out(hashes, share)
        return ~chosen, chosen
    train: Chosen = ~np.isin(hashes, validation_hashes)
    if not train.any():
        raise DataError("Every training record is a validation record too: nothing is left to train on.")
    return train, np.zeros(len(hashes), np.bool_)


def first(chosen: Chosen, count: int | None) -> Chosen:
    """The first `count` of the chosen records; None: all."""
    return chosen if count is None else chosen & (np.cumsum(chosen) <= count)
