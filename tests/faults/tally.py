"""How many faults a run of the tests has made, and how many were got over."""

from __future__ import annotations

from collections import Counter


class RestartState:
    """Counts by kind; printed at the end."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()

    def lines(self) -> list[str]:
        """A line a kind, and one for all."""
        rows = [(kind, self.made[kind], self.resumed[kind]) for kind in sorted(self.made)]
        if not rows:
            return []
        total = ("all", self.made.total(), self.resumed.total())
        return [f"faults: {kind}: {made} made, {resumed} resumed" for kind, made, resumed in [*rows, total]]


TALLY = RestartState()
