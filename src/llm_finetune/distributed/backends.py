"""The communication backends, gloo and ccl: whether they can work here, and what they need set."""

from __future__ import annotations

import importlib.util
import os

from llm_finetune.distributed import oneccl
from llm_finetune.errors import SettingsError
from llm_finetune.host.network import interface_towards
from llm_finetune.runtime.ranks import Ranks, master

INTERFACE_VARIABLES = {"gloo": "GLOO_SOCKET_IFNAME", "ccl": "FI_TCP_IFACE"}


def check_backend(backend: str, world_size: int) -> None:
    """Refuses a backend that cannot work here. Light: it imports nothing and contacts no peer.

    Raises:
        SettingsError: for an unknown backend, and for ccl with several ranks and without its bindings.
    """
    if backend not in INTERFACE_VARIABLES:
        raise SettingsError(f"distributed.train.ddpBackend: found {backend!r}, expected ccl or gloo.")
    if backend == "ccl" and world_size > 1 and importlib.util.find_spec(oneccl.BINDINGS) is None:
        raise SettingsError(
            f"distributed.train.ddpBackend: ccl for {world_size} ranks needs the package {oneccl.BINDINGS} "
            "(oneccl_bind_pt, for torch 2.8), which is not installed here. Install it, or say "
            "`distributed.train.ddpBackend: gloo`."
        )


def prepare(backend: str, ranks: Ranks) -> None:
    """Sets the environment that `backend` needs, before the process group is made.

    Raises:
        GroupError: if no network interface of this machine leads to the master.
    """
    # Left alone, gloo takes the interface that the host's name resolves to, often loopback; ccl's transport
    # may take one that does not lead to the peers, and hang.
    variable = INTERFACE_VARIABLES[backend]
    if variable not in os.environ:
        os.environ[variable] = interface_towards(master()[0])
    if backend == "ccl":
        oneccl.prepare(ranks)
