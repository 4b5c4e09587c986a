"""Cores and bfloat16, read from kernel files laid out as they are on hosts and in containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_finetune.distributed import (
    available_cores,
    has_bf16,
    lower_libraries,
    processor_features,
    threads_per_process,
)
from llm_finetune.errors import SettingsError
from llm_finetune.host.instruction_set import MAX_CPU_ISA, TORCH


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def laid_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_affinity_counts_where_no_quota_is_set(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == 16


@pytest.mark.parametrize(
    ("own", "above", "cores"),
    [
        ("max 100000", "max 100000", 16),
        ("400000 100000", "max 100000", 4),
        ("max 100000", "600000 100000", 6),  # the pod's limit lies above the container's group
        ("400000 100000", "250000 100000", 2),  # two and a half cores keep two threads busy
        ("50000 100000", "max 100000", 1),
        ("6400000 100000", "max 100000", 16),
    ],
)
def test_the_tightest_quota_of_the_hierarchy_counts(tmp_path: Path, own: str, above: str, cores: int) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/container\n",
        "sys/fs/cgroup/pod/container/cpu.max": own + "\n",
        "sys/fs/cgroup/pod/cpu.max": above + "\n",
    }
    assert available_cores(laid_out(tmp_path, files)) == cores


def test_a_container_that_sees_the_hosts_path_finds_its_own_group_at_the_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/host/path\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}
    assert available_cores(laid_out(tmp_path, files)) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("800000", 8)])
def test_a_quota_of_the_first_version(tmp_path: Path, quota: str, cores: int) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/task\n3:cpu,cpuacct:/task\n0::/\n",
        "sys/fs/cgroup/cpu/task/cpu.cfs_quota_us": quota + "\n",
        "sys/fs/cgroup/cpu/task/cpu.cfs_period_us": "100000\n",
    }
    assert available_cores(laid_out(tmp_path, files)) == cores


def test_every_process_gets_a_thread() -> None:
    assert [threads_per_process(16, processes) for processes in (1, 3, 16, 17)] == [16, 5, 1, 1]


@pytest.fixture
def unmasked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MAX_CPU_ISA, TORCH):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("processor : 0\nflags\t\t: fpu amx_bf16\n", True),
        ("processor : 0\nflags\t\t: fpu avx512f avx2\n", False),
        ("processor : 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor : 0\nFeatures\t: fp asimd\n", False),
    ],
)
def test_bfloat16_is_read_from_the_processors_features(
    tmp_path: Path, cpuinfo: str, expected: bool, unmasked: None
) -> None:
    assert has_bf16(laid_out(tmp_path, {"proc/cpuinfo": cpuinfo})) is expected


NEWEST = "fma avx avx2 avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        (MAX_CPU_ISA, "avx2", "fma avx avx2"),
        (MAX_CPU_ISA, "AVX512", "fma avx avx2 avx512f avx512_vnni"),
        (MAX_CPU_ISA, "avx512_bf16", "fma avx avx2 avx_vnni avx512f avx512_vnni avx512_bf16"),
        (MAX_CPU_ISA, "", NEWEST),
        (TORCH, "avx2", "fma avx avx2"),
        (TORCH, "default", "fma avx avx2"),
    ],
)
def test_an_older_processor_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmasked: None, name: str, value: str, kept: str
) -> None:
    monkeypatch.setenv(name, value)
    root = laid_out(tmp_path, {"proc/cpuinfo": f"flags : {NEWEST}\n"})
    assert processor_features(root) == set(kept.split())
    libraries = {name: value}
    lower_libraries(libraries)
    assert ("ONEDNN_MAX_CPU_ISA" in libraries) is (kept != NEWEST)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"LLM_FINETUNE_MAX_CPU_ISA: found 'sse', expected one of avx2, "):
        lower_libraries({MAX_CPU_ISA: "sse"})


def test_without_a_quota_the_request_counts(tmp_path: Path) -> None:
    """A pod without a limit shares its node: what it requested is what it gets."""
    assert available_cores(tmp_path, {"CPU_REQUEST": "4500"}) == 4
    assert available_cores(tmp_path, {"CPU_REQUEST": "500"}) == 1
    assert available_cores(tmp_path, {"CPU_REQUEST": "32000"}) == 16  # the node has no more
    assert available_cores(tmp_path, {"CPU_REQUEST": "0"}) == 16
    limited = laid_out(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "600000 100000\n"})
    assert available_cores(limited, {"CPU_REQUEST": "4000"}) == 6
