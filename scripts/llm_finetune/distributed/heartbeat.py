"""A rank's sign of life on the volume: its last step and its memory, written every few seconds.

Its launcher takes the file away when the rank has ended. So one that stays is of a rank that was killed with
its launcher, and nobody was left to say why.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llm_finetune.distributed.memory import Memory, memory_now
from llm_finetune.distributed.ranks import Ranks

FILE = "LLM_FINETUNE_HEARTBEAT"
EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life: step 0 is before the training."""

    step: int
    memory: Memory

    def __str__(self) -> str:
        where = f"after step {self.step}" if self.step else "before the first step"
        hint = (
            "; it was probably killed for memory: raise resources.memoryLimit, or lower "
            "distributed.train.perDeviceBatchSize or maxSeqLength, or set gradientCheckpointing"
        )
        return f"{where}, with {self.memory}{hint if self.memory.is_short else ''}"


class _Progress:
    """How far this process has come."""

    step = 0


def beat(step: int) -> None:
    """Notes that a step is done; costs nothing."""
    _Progress.step = step


@contextmanager
def beating(ranks: Ranks) -> Iterator[None]:
    """While the body runs, a machine's first rank writes signs of life, where its launcher wants them."""
    name = os.environ.get(FILE)
    if name is None or ranks.local_rank != 0:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_write_often, args=(Path(name), over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def read(file: Path) -> Heartbeat | None:
    """The sign of life in a file; None where there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        memory = Memory(content["used_bytes"], content["limit_bytes"])
        return Heartbeat(content["step"], memory)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_often(file: Path, over: threading.Event) -> None:
    while True:
        now = memory_now()
        content = {
            "step": _Progress.step,
            "used_bytes": now.used_bytes,
            "limit_bytes": now.limit_bytes,
        }
        aside = file.with_suffix(".partial")
        with suppress(OSError):  # a full disk is for the checkpoint to name
            aside.write_text(json.dumps(content))
            os.replace(aside, file)
        if over.wait(EVERY_SECONDS):
            return
