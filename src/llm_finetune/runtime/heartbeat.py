"""A rank's sign of life on the volume: its last step and its memory, written every few seconds.

Its launcher takes the file away when the rank has ended; without one the rank does so itself. So one that
stays is of a rank that was killed before it could report why.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llm_finetune.host.memory import Memory, memory_now
from llm_finetune.runtime import rank_progress
from llm_finetune.runtime.ranks import Ranks
from llm_finetune.runtime.state_file import is_count, read_state
from llm_finetune.storage import atomic

FILE = "LLM_FINETUNE_HEARTBEAT"
EVERY_SECONDS = 5.0
OWN = ".heartbeat.json"  # in the output folder, where no launcher wants one elsewhere

log = logging.getLogger(__name__)

_OWN_SIGN = ExitStack()  # takes it away


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
        return f"last seen {where}, with {self.memory}{hint if self.memory.is_short else ''}"


def record_step(step: int) -> None:
    """Notes that a step is done; costs nothing."""
    rank_progress.step_done(step)


@contextmanager
def rank_heartbeat(ranks: Ranks) -> Iterator[None]:
    """While the body runs, a machine's first rank writes signs of life, where its launcher wants them."""
    name = os.environ.get(FILE)
    if name is None or ranks.local_rank != 0:
        yield
        return
    over, _ = _begun(Path(name))
    try:
        yield
    finally:
        over.set()


@contextmanager
def heartbeat_writer(folder: Path) -> Iterator[None]:
    """The same in the output folder, where there is no launcher; logs first how far a killed run came."""
    if FILE in os.environ:
        yield
        return
    file = folder / OWN
    if sign := read(file):
        log.warning("the previous run was killed, %s", sign)
    _OWN_SIGN.callback(_take_away, file, *_begun(file))
    try:
        yield
    finally:
        remove_heartbeat()


def remove_heartbeat() -> None:
    """Removes this process's heartbeat: it ends in order, and its reason is logged."""
    _OWN_SIGN.close()


def _begun(file: Path) -> tuple[threading.Event, threading.Thread]:
    """What ends the signs of life, and the thread that writes them."""
    over = threading.Event()
    thread = threading.Thread(target=_write_often, args=(file, over), daemon=True)
    thread.start()
    return over, thread


def _take_away(file: Path, over: threading.Event, thread: threading.Thread) -> None:
    over.set()
    thread.join(timeout=1.0)  # a stale volume must not keep the process from ending
    with suppress(OSError):  # the volume may be what failed
        file.unlink(missing_ok=True)


def read(file: Path) -> Heartbeat | None:
    """The sign of life in a file; None where there is none that can be read."""
    try:
        content = read_state(file)
    except (OSError, ValueError):
        return None
    step, used, limit = (content.get(name) for name in ("step", "used_bytes", "limit_bytes"))
    if not (is_count(step) and is_count(used) and is_count(limit)):
        return None
    return Heartbeat(step, Memory(used, limit))


def _write_often(file: Path, over: threading.Event) -> None:
    while True:
        now = memory_now()
        content = {
            "step": rank_progress.steps_done(),
            "used_bytes": now.used_bytes,
            "limit_bytes": now.limit_bytes,
        }
        with suppress(OSError):  # a full disk is for the checkpoint to name
            atomic.write_text(file, json.dumps(content))
        if over.wait(EVERY_SECONDS):
            return
