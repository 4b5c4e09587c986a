"""The way from this machine to the group: which address and which interface lead there."""

from __future__ import annotations

import socket

import psutil

from llm_finetune.errors import GroupError

ANY_PORT = 9  # nothing is sent to it


def address_towards(host: str) -> str:
    """The address this machine sends from when it talks to `host`: the kernel's routing decides.

    Raises:
        GroupError: if there is no such host, or no way to it.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing: a datagram socket only looks up the route
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:  # the second: no name of a host is like that
        raise GroupError(
            f"environment: MASTER_ADDR is {host!r}, to which no way leads ({error}); expected the host of "
            "rank 0 (torchrun and the launcher set it)."
        ) from error


def interface_towards(host: str) -> str:
    """The name of the network interface that routes to `host`."""
    source = address_towards(host)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.split("%")[0] == source for address in addresses):
            return str(name)
    raise GroupError(
        f"no network interface has the address {source}, which leads to MASTER_ADDR={host}. "
        "Name the interface in GLOO_SOCKET_IFNAME (gloo) or FI_TCP_IFACE (ccl)."
    )
