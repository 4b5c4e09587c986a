"""Rank and number of processes. The only module that reads them from torch or the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llm_finetune.errors import SettingsError

HIGHEST_PORT = 65535
WHOLE = re.compile(r"[0-9]{1,9}")  # in ASCII, and not longer than any number of processes
LONGEST_SHOWN = 80
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Ranks:
    """One process's place among all (`rank` of `size`) and among those of its machine (`local_*`)."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one rank that downloads, prepares and writes."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """Reads the variables that torchrun sets; without them this is the only process.

        Raises:
            SettingsError: where they are incomplete, not numbers, or do not fit together.
        """
        if not is_launched_as_rank(environment):
            return cls(0, 1, 0, 1)
        if missing := [name for name in VARIABLES if name not in environment]:
            found = ", ".join(f"{name}={environment[name]}" for name in VARIABLES if name in environment)
            raise SettingsError(
                f"environment: found {found} without {', '.join(missing)}. torchrun sets all four; "
                "unset those left over from another program to run as one process."
            )
        ranks = cls(*(_number(environment, name) for name in VARIABLES))
        fits = 0 <= ranks.rank < ranks.size and 0 <= ranks.local_rank < ranks.local_size <= ranks.size
        if not fits:
            found = ", ".join(f"{name}={environment[name]}" for name in VARIABLES)
            raise SettingsError(f"environment: {found} do not fit together: a rank must be below its size.")
        return ranks


def is_launched_as_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or our own launcher, started this process as one of a group."""
    return "RANK" in environment or "WORLD_SIZE" in environment


def master(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Address and port of rank 0's machine, where the group meets.

    Raises:
        SettingsError: where the environment does not say.
    """
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]:
        raise SettingsError(f"environment: {' and '.join(missing)} missing: rank 0's place, set by torchrun.")
    port = _number(environment, "MASTER_PORT")
    if not 0 < port <= HIGHEST_PORT:
        raise SettingsError(
            f"environment: MASTER_PORT is {port}, expected 1 to {HIGHEST_PORT} (torchrun sets it)."
        )
    return environment["MASTER_ADDR"], port


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not WHOLE.fullmatch(text):
        shown = repr(text[:LONGEST_SHOWN])
        raise SettingsError(f"environment: {name} is {shown}, expected a whole number (torchrun sets it).")
    return int(text)
