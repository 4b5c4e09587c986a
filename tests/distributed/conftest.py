"""A clean start for each test, ranks as real processes, and a stand-in for the bindings of oneCCL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import Processes

from stand_in_ccl import write_stand_in


@pytest.fixture(autouse=True)
def clean_process(outside_any_group: None) -> None:
    """For every test here."""


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
