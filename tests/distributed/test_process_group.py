"""The process group on real processes: joined, worked in, left, and what each rank says when one is lost.

No agent stands above these ranks, so none is ended from outside: each leaves because it noticed.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist
from loopback import Processes

from llm_finetune.distributed import Group, Ranks, check_backend, join
from llm_finetune.distributed.failure import Alarm, Failure
from llm_finetune.distributed.peer_monitor import ADDRESS, PeerMonitor
from llm_finetune.distributed.store import Rendezvous
from llm_finetune.errors import GroupError, SettingsError

GONE = GroupError.exit_code
KILLED = -signal.SIGKILL


def test_one_rank_has_no_process_group() -> None:
    with join("ccl", Ranks.from_environment(), 1.0) as group:
        assert not dist.is_initialized()
        assert group.on_rank_zero("data", lambda: "made", 1.0) == "made"
        assert group.store_wait("data", 1.0) == "made"
        assert group.all_reduce_sum([1.5, 2]) == group.all_reduce_max([1.5, 2]) == [1.5, 2.0]
        group.barrier(1.0)
        with pytest.raises(GroupError, match="waited 0 s for 'other'"):
            group.store_wait("other", 0.0)


def test_all_ranks_agree_and_leave_together(processes: Processes) -> None:
    processes.start("healthy", 3, [0, 1, 2])
    seen = {rank: json.loads(outcome.out) for rank, outcome in processes.outcomes().items()}
    left = min(one.pop("left") for one in seen.values())
    assert left >= max(one.pop("done") for one in seen.values())
    for rank, one in seen.items():
        assert one == {
            "rank": rank,
            "initialized": True,
            "once": "/prepared/ä",
            "made": ["made"] if rank == 0 else [],
            "last": "hello",
            "sum": [1 + 2 + 3, 3 * 2.0**40 + 3],  # fp32 would lose the last 3
            "max": [2.0, 0.0],
        }


def test_a_missing_rank_is_named_by_all_that_came(processes: Processes) -> None:
    processes.start("impatient", 4, [0, 2])
    processes.start("impatient", 2, [1])
    outcomes = processes.outcomes()
    assert {outcome.exit_code for outcome in outcomes.values()} == {GONE}
    for rank in (0, 2):
        assert "rank 1 and rank 3 of 4 did not join within 3 s" in outcomes[rank].err
    assert "rank 0 of 2 did not open the rendezvous store at 127.0.0.1" in outcomes[1].err


def test_a_rank_that_does_not_reach_a_barrier_is_named() -> None:
    store = dist.HashStore()  # two ranks of three in one process
    of_three = (Ranks(rank, 3, rank, 3) for rank in (0, 1))
    first, second = (Group(ranks, Rendezvous(store, ranks, Alarm())) for ranks in of_three)
    with pytest.raises(GroupError, match="rank 1 and rank 2 of 3 did not arrive at 'barrier 1' within 0 s"):
        first.barrier(0.0)
    with pytest.raises(GroupError, match="rank 2 of 3 did not arrive at 'barrier 1' within 0 s"):
        second.barrier(0.0)


@pytest.mark.parametrize(
    ("scenario", "size", "failed"), [("raises_in_once", 2, 0), ("raises_elsewhere", 3, 1)]
)
def test_one_ranks_error_ends_all_with_its_code(
    processes: Processes, scenario: str, size: int, failed: int
) -> None:
    processes.start(scenario, size, list(range(size)))
    for rank, outcome in processes.outcomes().items():
        assert outcome.exit_code == 3
        said = "DataError: data.json" if rank == failed else f"GroupError: rank {failed} failed: data.json"
        assert f"{said}: row 7: no 'output'" in outcome.err
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("scenario", "size", "killed"),
    [("writer_killed", 2, 0), ("writer_killed_with_child", 2, 0), ("reader_killed", 3, 1)],
)
def test_a_killed_rank_is_noticed_and_named(
    processes: Processes, scenario: str, size: int, killed: int
) -> None:
    processes.start(scenario, size, list(range(size)))
    outcomes = processes.outcomes()
    assert outcomes.pop(killed).exit_code == KILLED
    for outcome in outcomes.values():
        assert outcome.exit_code == GONE
        assert f"rank {killed} of {size} is lost" in outcome.err


def test_a_stranger_at_the_door_is_not_taken_for_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks' lifelines in one process, and a health check that calls before the second."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    store, alarms = dist.HashStore(), (Alarm(), Alarm())
    ranks = Ranks(0, 2, 0, 2), Ranks(1, 2, 1, 2)
    meetings = [Rendezvous(store, *one) for one in zip(ranks, alarms, strict=True)]
    first, second = (PeerMonitor(*one, grace_seconds=1000.0) for one in zip(ranks, alarms, strict=True))
    door = threading.Thread(target=first.connect, args=(meetings[0], 60.0))
    door.start()
    host, port, _ = meetings[1].store_wait(ADDRESS, 60.0).split()
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET /\xff HTTP/1.1\r\n\r\n")
    second.connect(meetings[1], 60.0)
    door.join()
    second.announce_failure(Failure(1, 5, "the disk is full"))
    with pytest.raises(GroupError, match="the disk is full") as ended:
        alarms[0].wait(60.0)
    assert ended.value.exit_code == 5


def test_ccl_is_joined_and_found_by_accelerate(
    processes: Processes, stand_in_ccl: Callable[..., Path]
) -> None:
    """With a stand-in for oneCCL's bindings: gloo under the name ccl."""
    processes.start("with_ccl", 2, [0, 1], stand_in_ccl())
    for rank, outcome in processes.outcomes().items():
        assert outcome.exit_code == 0, outcome.err
        assert json.loads(outcome.out) == ["ccl", 2, rank, [2.0]]


def test_ccl_that_hangs_is_ended_with_last_words(
    processes: Processes, stand_in_ccl: Callable[..., Path]
) -> None:
    """With a stand-in for oneCCL's bindings whose first collective never returns."""
    processes.start("ccl_joins", 2, [0, 1], stand_in_ccl("time.sleep(1000)"))
    for outcome in processes.outcomes().values():
        assert outcome.exit_code == GONE
        assert "the first all-reduce over ccl with CCL_ATL_TRANSPORT=ofi" in outcome.err
        assert "did not come back within 3 s" in outcome.err
        assert "allreduce" in outcome.err  # where it hangs


def test_ccl_that_is_wrong_is_refused(processes: Processes, stand_in_ccl: Callable[..., Path]) -> None:
    """With a stand-in for oneCCL's bindings that adds to what it is given."""
    processes.start("ccl_joins", 2, [0, 1], stand_in_ccl("tensors[0].add_(1)"))
    for outcome in processes.outcomes().values():
        assert outcome.exit_code == GONE
        assert "gave 5, expected 3" in outcome.err


def test_a_collective_of_ccl_that_hangs_after_a_death_is_ended(
    processes: Processes, stand_in_ccl: Callable[..., Path]
) -> None:
    """With a stand-in for oneCCL's bindings whose collectives, after the first, never return."""
    processes.start("ccl_peer_killed", 2, [0, 1], stand_in_ccl("calls > 1 and time.sleep(1000)"))
    survivor = processes.outcomes()[0]
    assert survivor.exit_code == GONE
    assert "rank 1 of 2 is lost" in survivor.err


def test_ccl_without_its_bindings_is_refused_where_it_matters() -> None:
    check_backend("ccl", 1)
    check_backend("gloo", 2)
    with pytest.raises(SettingsError, match=r"`distributed\.train\.ddpBackend: gloo`"):
        check_backend("ccl", 2)
    with pytest.raises(SettingsError, match="found 'mpi', expected ccl or gloo"):
        check_backend("mpi", 1)


def test_bindings_that_do_not_import_are_refused(
    processes: Processes, stand_in_ccl: Callable[..., Path]
) -> None:
    """With a stand-in for oneCCL's bindings that breaks as one built for another torch does."""
    packages = stand_in_ccl()
    bindings = packages / "oneccl_bindings_for_pytorch" / "__init__.py"
    bindings.write_text("raise ImportError('undefined symbol: x')")
    processes.start("ccl_joins", 2, [0, 1], packages)
    for outcome in processes.outcomes().values():
        assert outcome.exit_code == SettingsError.exit_code
        assert "does not import: undefined symbol: x" in outcome.err
