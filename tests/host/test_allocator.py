"""Which allocator a process gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_finetune.errors import SettingsError
from llm_finetune.host import allocator


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_tcmalloc_where_it_is_installed(library: Path, tmp_path: Path) -> None:
    found = allocator.wanted("auto", {"LD_PRELOAD": "libiomp5.so"}, tmp_path)
    assert found == {"LD_PRELOAD": f"{library}:libiomp5.so"}
    assert allocator.described(found) == "libtcmalloc_minimal.so.4"


def test_what_is_there_already_stays(library: Path, tmp_path: Path) -> None:
    for preloaded in ("/opt/libjemalloc.so.2", str(library)):
        assert allocator.wanted("on", {"LD_PRELOAD": preloaded}, tmp_path) == {}
    assert allocator.wanted("off", {}, tmp_path) == {}


def test_glibc_is_tuned_where_there_is_no_other(tmp_path: Path) -> None:
    found = allocator.wanted("auto", {"GLIBC_TUNABLES": "glibc.rtld.nns=4"}, tmp_path)
    assert found["GLIBC_TUNABLES"].startswith("glibc.rtld.nns=4:glibc.malloc.mmap_max=0:")
    assert allocator.wanted("auto", found, tmp_path) == {}
    assert "apt-get install" in allocator.described(found)
    with pytest.raises(SettingsError, match="tcmalloc is not installed"):
        allocator.wanted("on", {}, tmp_path)


def test_a_process_starts_itself_again_once() -> None:
    """And a large buffer, freed and taken again, then costs no page faults."""
    code = """if True:
        import os, resource
        from pathlib import Path
        from llm_finetune.host import allocator
        allocator.start_again_with(allocator.wanted("auto", os.environ, Path("/nowhere")))
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            bytearray(64 << 20)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults()
        print(os.environ["MARK"], faults())
    """
    environment = {**os.environ, "MARK": "x"}
    environment.pop("LD_PRELOAD", None)
    environment.pop("GLIBC_TUNABLES", None)
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    mark, faults = said.stdout.split()
    assert mark == "x"
    assert int(faults) < 1000  # 16,384 pages where the buffer comes from the kernel each time
