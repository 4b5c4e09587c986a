"""Faults take minutes: they run by `make faults`, not with the other tests. Some need jobs of pods."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
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


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Make]:
    """Makes a job of so many workers, with settings that differ from the chart's."""
    with ExitStack() as stack:

        def make(workers: int = 2, **settings: Any) -> Pods:
            return stack.enter_context(Pods(tmp_path, workers, **settings))

        yield make


@pytest.fixture
def namespaces() -> Iterator[Callable[[int], list[str]]]:
    """Network namespaces that reach each other over a bridge, as nodes do: 10.77.0.1, 10.77.0.2, and so on.

    The machine's end of the link of the first is `llm-test-0`.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    made: list[str] = []

    def make(count: int) -> list[str]:
        _run("ip link add llm-test type bridge", "ip link set llm-test up")
        for number in range(count):
            name, end = f"llm-test-{number}", f"llm-test-in{number}"
            _run(f"ip netns add {name}")
            made.append(name)
            _run(
                f"ip link add {name} type veth peer name {end}",
                f"ip link set {end} netns {name}",
                f"ip link set {name} master llm-test up",
                f"ip -n {name} addr add 10.77.0.{number + 1}/24 dev {end}",
                f"ip -n {name} link set {end} up",
                f"ip -n {name} link set lo up",
            )
        return made

    yield make
    for name in made:
        subprocess.run(["ip", "link", "del", name], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)
    subprocess.run(["ip", "link", "del", "llm-test"], check=False)


def _run(*commands: str) -> None:
    for command in commands:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"network namespaces cannot be made here: {command}: {done.stderr}")
