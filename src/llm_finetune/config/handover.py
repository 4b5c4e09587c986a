"""Settings that were read once, for the processes that go on with the job.

A process that starts itself again, or ranks, cannot read them again: standard input and pipes are read only
once, and a file may be another by then. They lie in memory of the process that read them, which its children
open by a path: nothing of them is on a disk or on a command line, and nothing has to be removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.config.loader import Loaded, from_values
from llm_finetune.config.validation import ROOT

VARIABLE = "LLM_FINETUNE_SETTINGS"


@contextmanager
def handing_on(loaded: Loaded) -> Iterator[None]:
    """What is started in the body, or put in this process's place, goes on with these settings."""
    # Not closed by exec, which keeps the process id in the path as well.
    memory = os.memfd_create("settings", flags=0)
    with open(memory, "w", encoding="utf-8") as file:
        json.dump({ROOT: loaded.settings.to_values(), "warnings": loaded.warnings}, file)
        file.flush()
        os.environ[VARIABLE] = f"/proc/{os.getpid()}/fd/{memory}"
        try:
            yield
        finally:
            del os.environ[VARIABLE]


def handed_on() -> Loaded | None:
    """The settings of the process that started this one so; None elsewhere."""
    file = os.environ.pop(VARIABLE, None)  # what this process starts is not that one's
    if file is None:
        return None
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    return Loaded(from_values(content[ROOT]), content["warnings"])
