"""What a process leaves behind when it fails: what happened, where, and what to do.

A rank leaves it for its launcher, the launcher for Kubernetes: `kubectl describe pod` shows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llm_finetune.runtime.logging import plain, tell
from llm_finetune.runtime.outcome import Outcome
from llm_finetune.storage.json_files import write_json

TERMINATION_LOG = "TERMINATION_LOG"
KUBERNETES_READS_BYTES = 4096


def leave_to_launcher(problems: Sequence[str]) -> None:
    """Writes a rank's last message where torch's agent reads it; without an agent it does nothing."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        with suppress(OSError):
            write_json(Path(file), {"message": "\n".join(problems), "timestamp": int(time.time())})


def report_error(problems: Sequence[str]) -> None:
    """Tells the user, and the launcher where there is one, what ends this process."""
    leave_to_launcher(problems)
    tell(*(f"error: {problem}" for problem in problems))


def leave_to_kubernetes(ending: Outcome) -> None:
    """Writes the end of this pod to its termination log."""
    file = Path(os.environ.get(TERMINATION_LOG, "/dev/termination-log"))
    words = plain(ending.message).encode()[-KUBERNETES_READS_BYTES:].decode(errors="ignore")
    with suppress(OSError):  # without Kubernetes there is no such file, and /dev is not ours
        file.write_text(words + "\n", encoding="utf-8")
