"""One rank of a scenario: `worker.py <scenario>`. Errors end it as they end the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

from llm_finetune.distributed import Ranks, join
from llm_finetune.errors import DataError, UserError
from llm_finetune.runtime.watchdog import force_exit

LONG = 1000.0  # seconds that no test waits: a rank must leave for a better reason


def kill_self() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def healthy(ranks: Ranks) -> None:
    import torch.distributed as dist

    made = []

    def make() -> str:
        made.append("made")
        return "/prepared/ä"

    with join("gloo", ranks, 60.0) as group:
        once = group.on_rank_zero("data", make, LONG)
        if ranks.rank == ranks.size - 1:
            group.store_set("from the last", "hello")
        seen: dict[str, Any] = {
            "rank": ranks.rank,
            "initialized": dist.is_initialized(),
            "once": once,
            "made": made,
            "last": group.store_wait("from the last", LONG),
            "sum": group.all_reduce_sum([ranks.rank + 1, 2.0**40 + ranks.rank]),
            "max": group.all_reduce_max([float(ranks.rank), -float(ranks.rank)]),
        }
        group.barrier(LONG)
        group.barrier(LONG)
        if ranks.rank == ranks.size - 1:
            time.sleep(1)  # the others are done, and must not be gone before this one is done too
        seen["done"] = time.monotonic()
    seen["left"] = time.monotonic()
    print(json.dumps(seen), flush=True)


def impatient(ranks: Ranks) -> None:
    with join("gloo", ranks, 3.0):
        pass


def raises_in_once(ranks: Ranks) -> None:
    def make() -> str:
        raise DataError("data.json: row 7: no 'output'")

    with join("gloo", ranks, 60.0) as group:
        group.on_rank_zero("data", make, LONG)


def raises_elsewhere(ranks: Ranks) -> None:
    """Rank 1 fails; rank 0 is in a collective and rank 2 in a wait."""
    with join("gloo", ranks, 60.0) as group:
        if ranks.rank == 1:
            raise DataError("data.json: row 7: no 'output'")
        if ranks.rank == 2:
            group.store_wait("never", LONG)
        group.all_reduce_sum([1.0])


def writer_killed(ranks: Ranks) -> None:
    with join("gloo", ranks, 60.0) as group:
        group.on_rank_zero("data", kill_self, LONG)


def writer_killed_with_child(ranks: Ranks) -> None:
    """A forked child, as a data loader has them, holds all its parent's sockets open and outlives it."""

    def make() -> str:
        if os.fork() == 0:
            time.sleep(LONG)
        kill_self()

    with join("gloo", ranks, 60.0, grace_seconds=3.0) as group:
        group.on_rank_zero("data", make, LONG)


def reader_killed(ranks: Ranks) -> None:
    """Rank 1 is killed; rank 0 is in a collective and rank 2 waits for rank 0."""
    with join("gloo", ranks, 60.0) as group:
        if ranks.rank == 1:
            kill_self()
        group.on_rank_zero("data", lambda: str(group.all_reduce_sum([1.0])), LONG)


def with_ccl(ranks: Ranks) -> None:
    import torch.distributed as dist
    from accelerate import PartialState

    with join("ccl", ranks, 60.0) as group:
        state = PartialState(cpu=True)
        print(
            json.dumps(
                [dist.get_backend(), state.num_processes, state.process_index, group.all_reduce_sum([1.0])]
            )
        )


def ccl_joins(ranks: Ranks) -> None:
    with join("ccl", ranks, 3.0):
        pass


def ccl_peer_killed(ranks: Ranks) -> None:
    with join("ccl", ranks, 60.0, grace_seconds=1.0) as group:
        if ranks.rank == 1:
            kill_self()
        group.all_reduce_sum([1.0])


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        healthy, impatient, raises_in_once, raises_elsewhere, writer_killed,
        writer_killed_with_child, reader_killed, with_ccl, ccl_joins, ccl_peer_killed,
    )
}  # fmt: skip


def main(scenario: str) -> int:
    try:
        SCENARIOS[scenario](Ranks.from_environment())
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        force_exit(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
