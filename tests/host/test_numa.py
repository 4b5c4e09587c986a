"""NUMA nodes, read from kernel files laid out as they are on machines of several sockets."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from llm_finetune.host.numa import bind_to_numa_node, nodes


class Machine:
    """One whose kernel keeps the affinity that it is told, and says which cores are near each other."""

    def __init__(self, root: Path, cpulists: list[str], usable: set[int]) -> None:
        self.root, self.affinity = root, usable
        for number, cpulist in enumerate(cpulists):
            folder = root / f"sys/devices/system/node/node{number}"
            folder.mkdir(parents=True)
            (folder / "cpulist").write_text(cpulist + "\n")

    def set_affinity(self, _: int, cores: list[int]) -> None:
        self.affinity = set(cores)

    def while_near(self, local_rank: int, local_size: int) -> set[int]:
        """The cores of a rank while it stays near its memory."""
        with bind_to_numa_node(local_rank, local_size, self.root):
            return self.affinity


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two sockets with 4 cores each, which have 2 threads each; the second memory node has no cores."""
    made = Machine(tmp_path, ["0-3,8-11", "", "4-7,12-15"], set(range(16)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: made.affinity)
    monkeypatch.setattr(os, "sched_setaffinity", made.set_affinity)
    return made


FIRST, SECOND = {0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}


def test_two_ranks_have_a_socket_each_and_give_the_rest_back(machine: Machine) -> None:
    assert [machine.while_near(rank, 2) for rank in (0, 1)] == [FIRST, SECOND]
    assert machine.affinity == FIRST | SECOND


def test_more_ranks_share_the_sockets_evenly(machine: Machine) -> None:
    assert [machine.while_near(rank, 4) for rank in range(4)] == [FIRST, FIRST, SECOND, SECOND]


def test_fewer_ranks_have_several_nodes_each(tmp_path: Path, machine: Machine) -> None:
    machine.root = Machine(tmp_path / "four", ["0-1", "2-3", "4-5", "6-7"], set()).root
    machine.affinity = set(range(8))
    assert [machine.while_near(rank, 2) for rank in (0, 1)] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_does_not_divide_is_left_to_the_kernel(machine: Machine, ranks: int) -> None:
    assert machine.while_near(0, ranks) == FIRST | SECOND


def test_sockets_of_which_it_may_use_unlike_parts_are_left_to_the_kernel(machine: Machine) -> None:
    machine.affinity = {0, 1, 2, 4}
    assert machine.while_near(0, 2) == {0, 1, 2, 4}


def test_one_process_on_all_sockets_is_told_of_it(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        machine.while_near(0, 1)
        assert "processesPerWorker: 2" in caplog.text
        caplog.clear()
        machine.affinity = FIRST
        machine.while_near(0, 1)
        assert not caplog.text


def test_a_kernel_that_names_no_nodes_has_one(tmp_path: Path) -> None:
    assert nodes(tmp_path) == [sorted(os.sched_getaffinity(0))]
