"""Several processes as one: cores, ranks, joining and leaving the process group.

`Group` and `join` need torch and load it when they are first named; all the rest is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_finetune.distributed.backends import check_backend
from llm_finetune.host.cpu import available_cores, has_bf16, processor_features, threads_per_process
from llm_finetune.host.instruction_set import highest, lower_libraries
from llm_finetune.runtime.ranks import Ranks, is_launched_as_rank

if TYPE_CHECKING:
    from llm_finetune.distributed.process_group import Group, join

__all__ = [
    "Group",
    "Ranks",
    "available_cores",
    "check_backend",
    "has_bf16",
    "highest",
    "is_launched_as_rank",
    "join",
    "lower_libraries",
    "processor_features",
    "threads_per_process",
]


def __getattr__(name: str) -> Any:
    if name in ("Group", "join"):
        from llm_finetune.distributed import process_group

        return getattr(process_group, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
