"""Which of several ends was the cause, and when a job is done."""

from __future__ import annotations

import itertools

from llm_finetune.launcher.failure_cause import cause_of, is_done
from llm_finetune.runtime.outcome import Outcome

CONSEQUENCES = {"b": Outcome(128, "rank 0 is lost"), "c": Outcome(143, "stopped"), "d": Outcome(0, "done")}


def test_the_cause_outweighs_what_followed_from_it_in_whatever_order_they_come() -> None:
    for cause in (
        Outcome(3, "row 7"),
        Outcome(137, "killed"),
        Outcome(1, "a defect"),
        Outcome(143, "drained", True),
    ):
        for order in itertools.permutations({**CONSEQUENCES, "a": cause}.items()):
            assert cause_of(dict(order)).message == f"a: {cause.message}"


def test_a_permanent_failure_outweighs_a_kill() -> None:
    endings = {"a": Outcome(137, "killed"), "b": Outcome(2, "a typing error")}
    assert cause_of(endings).exit_code == 2


def test_of_equal_ends_the_first_is_the_cause() -> None:
    endings = {"b": Outcome(137, "killed"), "a": Outcome(139, "crashed")}
    assert cause_of(endings).message == "b: killed"


def test_the_job_is_done_when_the_worker_with_rank_0_is() -> None:
    assert is_done({"a": Outcome(0, "done"), "b": Outcome(128, "gone")}, first="a")
    assert not is_done({"a": Outcome(137, "killed"), "b": Outcome(0, "done")}, first="a")
