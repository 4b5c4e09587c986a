"""What the ends of a machine's ranks, or of a round's workers, mean together."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace

from llm_finetune.errors import GroupError
from llm_finetune.runtime.outcome import Outcome

# How ranks end because another did: a lost peer, or the agent's SIGTERM.
CONSEQUENCES = {GroupError.exit_code, 128 + signal.SIGTERM}


def cause_of(endings: Mapping[str, Outcome]) -> Outcome:
    """The end that brought the others about, with the name of whose it is.

    Args:
        endings: by name, in the order in which they came.
    """
    failed = {name: ending for name, ending in endings.items() if ending.exit_code}
    name, ending = min(failed.items(), key=lambda item: _rank(item[1]))
    return replace(ending, message=f"{name}: {ending.message}")


def is_done(endings: Mapping[str, Outcome], first: str) -> bool:
    """Whether all work of the job is done: rank 0 leaves last, and with 0 only then.

    Args:
        first: the worker that holds rank 0.
    """
    return first in endings and endings[first].exit_code == 0


def _rank(ending: Outcome) -> int:
    """A permanent failure outweighs a signal, and what was asked for outweighs what followed from it."""
    if ending.is_permanent:
        return 0
    if ending.asked:
        return 1
    return 3 if ending.exit_code in CONSEQUENCES else 2
