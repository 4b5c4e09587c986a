"""Which rank is said to stand still, by what the ranks say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from llm_finetune.distributed import stall_detection
from llm_finetune.distributed.stall_detection import Stalls
from llm_finetune.runtime import rank_progress
from llm_finetune.runtime.rank_progress import Progress

LIMIT = 600.0
BUSY = Progress(step=7, part=1, idle_seconds=0, quiet_seconds=40, longest_seconds=60, is_expected=True)
IDLE = replace(BUSY, idle_seconds=700, quiet_seconds=700)
AHEAD = {"part": 2}
Judge = Callable[..., "str | None"]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """What rank 0 says of a group of two, each heard of so many seconds ago."""

    def verdict(first: Progress, second: Progress, silent: tuple[float, float] = (0, 0)) -> str | None:
        monkeypatch.setattr(stall_detection.time, "monotonic", lambda: 0.0)
        stalls = Stalls(0, 2, {0: "a", 1: "b"}, LIMIT)
        for rank, said in enumerate((first, second)):
            monkeypatch.setattr(stall_detection.time, "monotonic", lambda: 1000.0 - silent[rank])  # noqa: B023
            stalls.heard(rank, said)
        monkeypatch.setattr(stall_detection.time, "monotonic", lambda: 1000.0)
        failure = stalls.verdict()
        return failure.message if failure else None

    return verdict


def test_whoever_works_or_waits_for_one_who_does_is_left_alone(judge: Judge) -> None:
    assert judge(BUSY, BUSY) is None
    assert judge(replace(IDLE, **AHEAD), BUSY) is None  # it waits for a slow one
    assert judge(IDLE, BUSY) is None  # in the backward pass of the same batch
    slow = replace(BUSY, quiet_seconds=5000, longest_seconds=4000)
    assert judge(slow, slow) is None  # a batch may take an hour
    first = replace(BUSY, quiet_seconds=5000, longest_seconds=0)
    assert judge(first, first) is None  # nobody knows yet how long one takes


def test_no_progress_is_expected_outside_the_loop(judge: Judge) -> None:
    """Rank 0 writes a checkpoint to a slow volume, and the other waits for it."""
    assert judge(replace(IDLE, is_expected=False), replace(IDLE, **AHEAD)) is None


def test_who_does_nothing_is_named(judge: Judge) -> None:
    said = judge(replace(BUSY, **AHEAD), IDLE)
    assert said == (
        "rank 1 on b of 2 made no progress for 10 min (distributed.stallTimeoutMinutes): it does nothing, "
        "after step 7; the others wait for it."
    )
    assert "rank 0 on a" in str(judge(replace(IDLE, idle_seconds=710), IDLE))


def test_ranks_that_nothing_tells_apart_are_all_named(judge: Judge) -> None:
    """One sleeps and one waits for it: both are as far, and have done nothing for as long."""
    said = str(judge(IDLE, replace(IDLE, idle_seconds=IDLE.idle_seconds + 1)))
    assert "rank 0 on a and rank 1 on b of 2 made no progress" in said
    assert "one of them holds up the others" in said


def test_who_answers_nothing_is_named_whatever_it_did(judge: Judge) -> None:
    """A process that is stopped (SIGSTOP) says nothing at all, while it loads a model as well."""
    assert "rank 1 on b of 2 made no progress" in str(judge(IDLE, replace(BUSY, is_expected=False), (0, 650)))


def test_a_collective_that_burns_a_core_for_ever_is_a_failure_too(judge: Judge) -> None:
    """As ccl's do; processor time proves nothing there."""
    soon = replace(BUSY, quiet_seconds=700)  # one that does nothing may yet be told from the others
    assert judge(soon, soon) is None
    spinning = replace(BUSY, quiet_seconds=901)
    assert "a collective hangs" in str(judge(spinning, spinning))


def test_a_judge_that_stood_still_itself_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(stall_detection.time, "monotonic", lambda: now[0])
    stalls = Stalls(0, 2, {0: "a", 1: "b"}, LIMIT)
    now[0] = 1000.0
    stalls.excuse()
    assert stalls.verdict() is None
    now[0] = 1700.0
    assert stalls.verdict()
    stalls.left(0)
    stalls.left(1)
    assert stalls.verdict() is None


def test_a_process_knows_whether_it_does_something() -> None:
    rank_progress.begin_loop()
    rank_progress.step_done(3)
    rank_progress.part_done()
    sum(range(10_000_000))
    mine = rank_progress.now()
    assert (mine.step, mine.part, mine.is_expected) == (3, 1, True)
    assert mine.idle_seconds == 0
    with rank_progress.apart():
        assert not rank_progress.now().is_expected
    rank_progress.end_loop()
    assert not rank_progress.now().is_expected
    assert Progress.from_word(json.loads(json.dumps(asdict(mine)))) == mine
