"""Faults take minutes: they run by `make faults`, not with the other tests. Some need jobs of pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nodes import Node, joined_nodes
from pods import Pods
from tally import TALLY

Make = Callable[..., Pods]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in TALLY.lines():
        terminalreporter.write_line(line)
    # pytest's closing line gives the number of each kind of outcome, and of what else it finds here.
    terminalreporter.stats["faults made"] = [SimpleNamespace()] * TALLY.made.total()
    terminalreporter.stats["faults resumed"] = [SimpleNamespace()] * TALLY.resumed.total()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Make]:
    """Makes a job of so many workers, with settings that differ from the chart's."""
    with ExitStack() as stack:

        def make(workers: int = 2, **settings: Any) -> Pods:
            return stack.enter_context(Pods(tmp_path, workers, **settings))

        yield make


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two nodes of a cluster, as far as their network goes."""
    with joined_nodes(2) as made:
        yield made
