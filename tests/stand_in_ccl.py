"""A stand-in for oneCCL's bindings, which cannot be installed everywhere: gloo under the name ccl."""

from __future__ import annotations

from pathlib import Path


def write_stand_in(packages: Path, spell: str = "") -> Path:
    """Writes it into a folder for sys.path, which is returned.

    Like the real one it registers the backend when it is imported.

    Args:
        spell: a line of Python that each of its all-reduces runs first; `calls` counts them.
    """
    package = packages / "oneccl_bindings_for_pytorch"
    (package / "lib" / "prov").mkdir(parents=True)
    (package / "lib" / "libfabric.so.1").touch()
    (package / "__init__.py").write_text(STAND_IN.format(spell=spell or "pass"))
    return packages


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
