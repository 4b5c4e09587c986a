"""Memory in use and its limit, read from kernel files laid out as they are on hosts and in containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_finetune.host.memory import Memory, memory_limit, memory_now

MACHINE = {"proc/meminfo": "MemTotal: 16000 kB\nMemFree: 1000 kB\nMemAvailable: 4000 kB\n"}
V2 = "sys/fs/cgroup/pod"
V1 = "sys/fs/cgroup/memory/pod"


def laid_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in {**MACHINE, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/pod\n",
            f"{V2}/memory.max": "4096000\n",
            f"{V2}/memory.current": "4000000\n",
            f"{V2}/memory.stat": "anon 2500000\ninactive_file 1000000\n",
        },
        {
            "proc/self/cgroup": "4:memory:/pod\n0::/\n",
            f"{V1}/memory.limit_in_bytes": "4096000\n",
            f"{V1}/memory.usage_in_bytes": "4000000\n",
            f"{V1}/memory.stat": "total_inactive_file 1000000\n",
        },
    ],
)
def test_a_containers_limit_counts_and_files_that_can_be_dropped_do_not(
    tmp_path: Path, files: dict[str, str]
) -> None:
    root = laid_out(tmp_path, files)
    assert memory_now(root) == Memory(3_000_000, 4_096_000)
    assert memory_limit(root) == 4_096_000
    assert not memory_now(root).is_short
    assert Memory(3_600_000, 4_096_000).is_short


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/pod\n", f"{V2}/memory.max": "max\n", f"{V2}/memory.current": "1\n"},
        {
            "proc/self/cgroup": "4:memory:/pod\n",
            f"{V1}/memory.limit_in_bytes": "9223372036854771712\n",
            f"{V1}/memory.usage_in_bytes": "1\n",
        },
    ],
)
def test_without_a_limit_the_machines_memory_counts(tmp_path: Path, files: dict[str, str]) -> None:
    root = laid_out(tmp_path, files)
    assert memory_now(root) == Memory(12_288_000, 16_384_000)
    assert memory_limit(root) == 16_384_000
