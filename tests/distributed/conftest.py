"""A clean start for each test, ranks as real processes, and a stand-in for the bindings of oneCCL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import Processes

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

    def write(spell: str = "") -> Path:
        package = tmp_path / "packages" / "oneccl_bindings_for_pytorch"
        (package / "lib" / "prov").mkdir(parents=True)
        (package / "lib" / "libfabric.so.1").touch()
        (package / "__init__.py").write_text(STAND_IN.format(spell=spell or "pass"))
        return package.parent

    return write


STAND_IN = """
import os, time
from datetime import timedelta
import torch.distributed as dist

calls = 0

class Bewitched(dist.ProcessGroup):
    def __init__(self, gloo):
        super().__init__(gloo.rank(), gloo.size())
        self.gloo = gloo

    def allreduce(self, tensors, options):
        global calls
        calls += 1
        {spell}
        return self.gloo.allreduce(tensors, options)

    def getBackendName(self):
        return "ccl"

def create(store, rank, size, timeout):
    # The real ones also make the group without complaint where these are wrong, and hang later.
    assert os.environ["CCL_ATL_TRANSPORT"] == "ofi" and os.environ["FI_TCP_IFACE"] == "lo"
    gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
    return gloo if {spell!r} == "pass" else Bewitched(gloo)

dist.Backend.register_backend("ccl", create, devices=["cpu"])
"""
