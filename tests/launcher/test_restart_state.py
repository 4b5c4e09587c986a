"""Rounds counted on the volume, over the lives of the pod that counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_finetune.launcher.restart_state import RestartState
from llm_finetune.runtime.outcome import Outcome

KILLED, ASKED = Outcome(137, "killed"), Outcome(143, "drained", asked=True)


def test_failures_are_counted_over_lives_and_what_was_asked_for_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rounds.json"
    first = RestartState(file, "job", 3)
    assert not first.is_unfinished
    assert first.begin() == 1
    assert first.count(KILLED) == 1
    second = RestartState(file, "job", 3)
    assert not second.is_unfinished
    assert second.begin() == 2
    assert second.count(ASKED) == 1
    assert second.begin() == 3
    third = RestartState(file, "job", 3)
    assert third.is_unfinished  # nobody counted how that one ended
    assert third.number == 3
    assert third.count(KILLED) == 2


def test_a_job_that_is_over_or_another_one_begins_anew_and_keeps_the_logs_apart(tmp_path: Path) -> None:
    file = tmp_path / "rounds.json"
    first = RestartState(file, "job", 3)
    first.begin()
    first.count(KILLED)
    first.finish()
    again = RestartState(file, "job", 3)
    assert (again.number, again.failures, again.is_unfinished) == (0, 0, False)
    assert again.begin() == 2
    other = RestartState(file, "another", 3)
    assert (other.number, other.failures, other.is_unfinished) == (0, 0, False)
    assert other.begin() == 3


KEPT = st.dictionaries(
    st.sampled_from(["job", "number", "begun_at", "failures", "running", "over"]),
    st.none() | st.booleans() | st.integers(0, 9) | st.floats() | st.sampled_from(["job", ""]),
)


@given(content=st.binary(max_size=20) | KEPT.map(lambda kept: json.dumps(kept).encode()))
@settings(deadline=None)
def test_a_broken_count_does_not_keep_a_job_from_going_on(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.mktemp("volume") / "rounds.json"
    file.write_bytes(content)
    first = RestartState(file, "job", 3)
    number = first.begin()
    assert RestartState(file, "job", 3).begin() == number + 1
