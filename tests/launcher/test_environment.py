"""What a worker reads out of the operator's environment, and what it refuses."""

from __future__ import annotations

import pytest

from llm_finetune.errors import SettingsError
from llm_finetune.launcher.environment import WorkerIdentity

GIVEN = {
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": "llama-1a2b-worker-0:23456",
    "PET_NNODES": "1:4",
    "PET_MAX_RESTARTS": "10",
    "POD_NAME": "llama-1a2b-worker-0",
}


def test_the_operators_environment_is_read() -> None:
    place = WorkerIdentity.from_environment(4, GIVEN)
    assert place == WorkerIdentity("llama-1a2b-worker-0", ("llama-1a2b-worker-0", 23456), 1, 4, 10)
    assert place.leads
    assert not WorkerIdentity.from_environment(4, {**GIVEN, "POD_NAME": "llama-1a2b-worker-1"}).leads
    in_full = {**GIVEN, "PET_RDZV_ENDPOINT": "llama-1a2b-worker-0.team.svc:23456"}
    assert WorkerIdentity.from_environment(4, in_full).leads


def test_one_worker_needs_no_operator() -> None:
    place = WorkerIdentity.from_environment(1, {"POD_NAME": "alone"})
    assert place.leads
    assert (place.least, place.most) == (1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"PET_RDZV_BACKEND": "etcd"}, "elasticPolicy.rdzvBackend: found etcd"),
        ({"PET_RDZV_BACKEND": "etcd-v2"}, "write c10d"),
        ({"PET_RDZV_BACKEND": "static"}, "expected c10d"),
        ({"PET_RDZV_ENDPOINT": ""}, "PET_RDZV_ENDPOINT is not set, but 4 workers"),
        ({"PET_RDZV_ENDPOINT": "host:port"}, "PET_RDZV_ENDPOINT is 'host:port'"),
        ({"PET_NNODES": "a:b"}, "PET_NNODES is 'a:b'"),
        ({"PET_RDZV_ENDPOINT": "host:65536"}, "PET_RDZV_ENDPOINT is 'host:65536', expected worker-0's host"),
        ({"PET_RDZV_ENDPOINT": f"{'h' * 64}:1"}, "expected worker-0's host and a port"),
        ({"PET_RDZV_ENDPOINT": "host:" + "9" * 5000}, "expected numbers"),
        ({"PET_NNODES": "1:²"}, "PET_NNODES is '1:²'"),
        ({"PET_MAX_RESTARTS": "-1"}, "PET_MAX_RESTARTS is '-1'"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_a_line(change: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        WorkerIdentity.from_environment(4, {**GIVEN, **change})
    (problem,) = refusal.value.problems
    assert said in problem
