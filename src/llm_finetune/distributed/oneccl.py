"""Intel's oneCCL: the environment without which it hangs, and its bindings for torch.

The process group is made without complaint where all of this is wrong; the first collective then hangs or
fails. So the joining proves the group by one small all-reduce under a deadline.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import MutableMapping
from pathlib import Path

from llm_finetune.errors import SettingsError
from llm_finetune.host.cpu import available_cores, threads_per_process
from llm_finetune.runtime.ranks import Ranks

BINDINGS = "oneccl_bindings_for_pytorch"
FEW_CORES = 4
SETTINGS = (
    "CCL_ATL_TRANSPORT", "CCL_ATL_SHM", "CCL_WORKER_OFFLOAD", "CCL_WORKER_AFFINITY", "CCL_OFI_LIBRARY_PATH",
    "FI_PROVIDER", "FI_PROVIDER_PATH", "FI_TCP_IFACE",
)  # fmt: skip

logger = logging.getLogger(__name__)


def prepare(ranks: Ranks, environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what oneCCL reads at its first collective. What the user set stays, unless it is known to fail."""
    # The default, mpi, waits for an mpirun that is not there.
    _force(environment, "CCL_ATL_TRANSPORT", "ofi", "any other transport hangs without mpirun")
    # Left alone, libfabric may choose a provider whose hardware the peers do not have.
    environment.setdefault("FI_PROVIDER", "tcp")
    # The bindings bring their own libfabric; one of the system may be another version.
    for name, path in _fabric().items():
        environment.setdefault(name, str(path))
    # Pinned workers of several processes meet on the same cores.
    _force(environment, "CCL_WORKER_AFFINITY", None, "workers pinned to cores block each other")
    if threads_per_process(available_cores(), ranks.local_size) <= FEW_CORES:
        # oneCCL's own thread spins on a core that the ranks need. Measured with one core a rank: all-reduces
        # took up to 15 times as long as gloo's with that thread, and less than gloo's without.
        environment.setdefault("CCL_WORKER_OFFLOAD", "0")
    if ranks.size > ranks.local_size and environment.get("CCL_ATL_SHM") == "1":
        _force(environment, "CCL_ATL_SHM", "0", "pods share no memory")


def load() -> None:
    """Imports the bindings, which registers the backend `ccl` with torch.

    Raises:
        SettingsError: if they do not import; most often they were built for another torch.
    """
    try:
        importlib.import_module(BINDINGS)
    except (ImportError, OSError, RuntimeError) as error:
        raise SettingsError(
            f"distributed.train.ddpBackend: ccl needs {BINDINGS}, which is installed but does not import: "
            f"{error}. Install the version made for this torch, or say `distributed.train.ddpBackend: gloo`."
        ) from error


def described(environment: MutableMapping[str, str] = os.environ) -> str:
    """What oneCCL goes by, in one line, for the message that says it hangs."""
    return ", ".join(f"{name}={environment[name]}" for name in SETTINGS if name in environment)


def _force(environment: MutableMapping[str, str], name: str, value: str | None, why: str) -> None:
    found = environment.pop(name, None)
    if value is not None:
        environment[name] = value
    if found not in (None, value):
        now = "unset" if value is None else f"set to {value}"
        logger.warning("ccl: %s was %s and is now %s: %s", name, found, now, why)


def _fabric() -> dict[str, Path]:
    """Where the bindings' own libfabric and its providers lie, which differs between their versions."""
    spec = importlib.util.find_spec(BINDINGS)
    assert spec is not None  # check_backend has seen to it
    found: dict[str, Path] = {}
    for folder in map(Path, spec.submodule_search_locations or []):
        for name, pattern in (("CCL_OFI_LIBRARY_PATH", "libfabric.so*"), ("FI_PROVIDER_PATH", "prov")):
            if matches := sorted(folder.rglob(pattern)):
                found.setdefault(name, matches[0])
    return found
