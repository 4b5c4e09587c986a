"""Which rank lives and does nothing, by what each says of itself every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from llm_finetune.distributed.failure import Failure
from llm_finetune.errors import GroupError
from llm_finetune.runtime.rank_progress import Progress

SECONDS = 5.0  # from one word to the next
SLOWEST = 10  # batches may take so many times as long as the longest so far
BURNING = 1.5  # limits that ranks may compute and come no further: one that does nothing is named before


@dataclass
class _Peer:
    """A rank as it was last heard of."""

    host: str
    heard_at: float
    progress: Progress | None = None


class Stalls:
    """Judges the ranks that this one hears of.

    Args:
        rank: this one; rank 0 hears of all and judges who holds up the others.
        hosts: of each rank that is heard of, by its number.
        limit_seconds: for how long a rank may do nothing.
    """

    def __init__(self, rank: int, size: int, hosts: dict[int, str], limit_seconds: float) -> None:
        self._rank, self._size, self._limit = rank, size, limit_seconds
        began = time.monotonic()
        self._peers = {peer: _Peer(host, began) for peer, host in hosts.items()}

    @property
    def every_seconds(self) -> float:
        """How often to say a word, and to look."""
        return min(SECONDS, self._limit / 6)

    def heard(self, rank: int, progress: Progress) -> None:
        """Notes what a rank says of itself."""
        if peer := self._peers.get(rank):
            peer.progress, peer.heard_at = progress, time.monotonic()

    def left(self, rank: int) -> None:
        """A rank has left in order."""
        self._peers.pop(rank, None)

    def excuse(self) -> None:
        """This process itself stood still meanwhile: messages of the others are waiting to be read."""
        for peer in list(self._peers.values()):
            peer.heard_at = time.monotonic()

    def verdict(self) -> Failure | None:
        """The failure of a rank that stands still; None where none does."""
        now = time.monotonic()
        peers = dict(self._peers)
        silent = {rank: now - peer.heard_at for rank, peer in peers.items()}
        if peers and max(silent.values()) >= self._limit:
            rank = max(silent, key=lambda one: silent[one])
            return self._failure([rank], "it is there and answers nothing: stopped, or its machine hangs")
        known = {rank: peer.progress for rank, peer in peers.items() if peer.progress}
        if self._rank != 0 or len(known) < self._size or not all(one.is_expected for one in known.values()):
            return None
        idle = {rank: one.idle_seconds + silent[rank] for rank, one in known.items()}
        last = min((one.step, one.part) for one in known.values())
        behind = [rank for rank, one in known.items() if (one.step, one.part) == last]
        # Ranks that are ahead wait for these; one of these that computes is merely slow.
        if all(idle[rank] >= self._limit for rank in behind):
            longest = max(idle[rank] for rank in behind)
            # Who waits for another stands still as well, a moment later: less than this is not seen.
            suspects = [rank for rank in behind if idle[rank] > longest - 2 * self.every_seconds]
            after = f"nothing, after step {last[0]}"
            if len(suspects) > 1:
                return self._failure(suspects, f"they do {after}; one of them holds up the others")
            others = "; the others wait for it" if self._size > 1 else ""
            return self._failure(suspects, f"it does {after}{others}")
        if all(self._is_quiet(one, silent[rank]) for rank, one in known.items()):
            return self._failure(known, f"no rank makes progress, after step {last[0]}: a collective hangs")
        return None

    def _is_quiet(self, progress: Progress, silent_seconds: float) -> bool:
        longest = progress.longest_seconds
        return longest > 0 and progress.quiet_seconds + silent_seconds >= max(
            BURNING * self._limit, SLOWEST * longest
        )

    def _failure(self, ranks: Iterable[int], what: str) -> Failure:
        ranks = sorted(ranks)
        names = " and ".join(f"rank {rank} on {self._peers[rank].host}" for rank in ranks)
        message = (
            f"{names} of {self._size} made no progress for {self._limit / 60:g} min "
            f"(distributed.stallTimeoutMinutes): {what}."
        )
        return Failure(ranks[0], GroupError.exit_code, message)
