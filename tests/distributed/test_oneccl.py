"""What oneCCL is given to go by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_finetune.distributed import Ranks, oneccl

ONE_NODE, TWO_NODES = Ranks(0, 2, 0, 2), Ranks(0, 2, 0, 1)


@pytest.fixture(autouse=True)
def bindings(stand_in_ccl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for oneCCL's bindings, with the files of the libfabric that they bring."""
    path = stand_in_ccl()
    monkeypatch.syspath_prepend(str(path))
    return path / oneccl.BINDINGS


def test_all_that_is_known_to_matter_is_set(bindings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oneccl, "available_cores", lambda: 2)
    environment: dict[str, str] = {}
    oneccl.prepare(ONE_NODE, environment)
    assert environment == {
        "CCL_ATL_TRANSPORT": "ofi",
        "CCL_WORKER_OFFLOAD": "0",
        "CCL_OFI_LIBRARY_PATH": str(bindings / "lib" / "libfabric.so.1"),
        "FI_PROVIDER": "tcp",
        "FI_PROVIDER_PATH": str(bindings / "lib" / "prov"),
    }


def test_with_many_cores_a_worker_thread_is_left_to_ccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oneccl, "available_cores", lambda: 64)
    environment: dict[str, str] = {}
    oneccl.prepare(ONE_NODE, environment)
    assert "CCL_WORKER_OFFLOAD" not in environment


def test_what_the_user_set_stays(caplog: pytest.LogCaptureFixture) -> None:
    mine = {"FI_PROVIDER": "verbs", "CCL_WORKER_OFFLOAD": "1", "CCL_ATL_SHM": "1"}
    environment = dict(mine)
    oneccl.prepare(ONE_NODE, environment)
    assert environment.items() >= mine.items()
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "found", "left", "said"),
    [
        ("CCL_ATL_TRANSPORT", "mpi", "ofi", "CCL_ATL_TRANSPORT was mpi and is now set to ofi"),
        ("CCL_WORKER_AFFINITY", "0,1", None, "CCL_WORKER_AFFINITY was 0,1 and is now unset"),
        ("CCL_ATL_SHM", "1", "0", "CCL_ATL_SHM was 1 and is now set to 0"),
    ],
)
def test_what_is_known_to_fail_is_changed_and_said(
    caplog: pytest.LogCaptureFixture, name: str, found: str, left: str | None, said: str
) -> None:
    environment = {name: found}
    with caplog.at_level(logging.WARNING):
        oneccl.prepare(TWO_NODES, environment)
    assert environment.get(name) == left
    assert [said in record.getMessage() for record in caplog.records] == [True]
