"""A clean start for each test, ranks as real processes, and a stand-in for the bindings of oneCCL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import Processes

from stand_in_ccl import write_stand_in

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts outside any group."""
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.end()


@pytest.fixture
def stand_in_ccl(tmp_path: Path) -> Callable[..., Path]:
    """Writes a stand-in for oneCCL's bindings, which cannot be installed here: gloo under the name ccl.

    Like the real one it registers the backend when it is imported. With a `spell`, a line of Python, each of
    its all-reduces runs that first.
    """

    return lambda spell="": write_stand_in(tmp_path / "packages", spell)
