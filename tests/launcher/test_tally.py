"""Rounds counted on the volume, over the lives of the pod that counts."""

from __future__ import annotations

from pathlib import Path

from llm_finetune.launcher.ending import Ending
from llm_finetune.launcher.tally import Tally

KILLED, ASKED = Ending(137, "killed"), Ending(143, "drained", asked=True)


def test_failures_are_counted_over_lives_and_what_was_asked_for_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rounds.json"
    first = Tally(file, "job", 3)
    assert not first.is_unfinished
    assert first.begin() == 1
    assert first.count(KILLED) == 1
    second = Tally(file, "job", 3)
    assert not second.is_unfinished
    assert second.begin() == 2
    assert second.count(ASKED) == 1
    assert second.begin() == 3
    third = Tally(file, "job", 3)
    assert third.is_unfinished  # nobody counted how that one ended
    assert third.number == 3
    assert third.count(KILLED) == 2


def test_a_job_that_is_over_or_another_one_begins_anew_and_keeps_the_logs_apart(tmp_path: Path) -> None:
    file = tmp_path / "rounds.json"
    first = Tally(file, "job", 3)
    first.begin()
    first.count(KILLED)
    first.finish()
    again = Tally(file, "job", 3)
    assert (again.number, again.failures, again.is_unfinished) == (0, 0, False)
    assert again.begin() == 2
    other = Tally(file, "another", 3)
    assert (other.number, other.failures, other.is_unfinished) == (0, 0, False)
    assert other.begin() == 3
