"""Nodes of a cluster, as far as their network goes: network namespaces that reach each other over a switch.

They have no names: `ip netns` would hide the networks of the pods of a cluster that runs on this machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from subprocess import PIPE

import pytest


@dataclass(frozen=True)
class Node:
    """One of them.

    Attributes:
        address: where the others reach it.
        prefix: what stands before a command that is to run there.
    """

    address: str
    prefix: list[str]
    _switch: list[str]
    _port: str

    def cut(self) -> None:
        """Nothing comes through its link any more, and nobody is told."""
        _run(self._switch, f"ip link set {self._port} down")

    def join(self) -> None:
        """Its link works again."""
        _run(self._switch, f"ip link set {self._port} up")


@contextmanager
def joined_nodes(count: int) -> Iterator[list[Node]]:
    """Gives so many nodes; skips the test where this user may not make them."""
    if subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces need root and ip")
    with ExitStack() as stack:
        switch, _ = stack.enter_context(_network())
        _run(switch, "ip link add switch type bridge", "ip link set switch up")
        yield [_node(number, switch, *stack.enter_context(_network())) for number in range(count)]


def _node(number: int, switch: list[str], prefix: list[str], holder: int) -> Node:
    node = Node(f"10.77.0.{number + 1}", prefix, switch, f"port{number}")
    _run(
        switch,
        f"ip link add {node._port} type veth peer name inside netns {holder}",
        f"ip link set {node._port} master switch up",
    )
    _run(
        prefix,
        f"ip addr add {node.address}/24 dev inside",
        "ip link set inside up",
        "ip link set lo up",
    )
    return node


@contextmanager
def _network() -> Iterator[tuple[list[str], int]]:
    """A network namespace: what stands before a command in it, and the process that holds it."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep inf"], stdout=PIPE) as holder:
        try:
            assert holder.stdout
            holder.stdout.readline()
            yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"], holder.pid
        finally:
            holder.kill()


def _run(prefix: list[str], *commands: str) -> None:
    for command in commands:
        subprocess.run([*prefix, *command.split()], check=True)
