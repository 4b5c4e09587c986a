"""LD_PRELOAD: the allocator and the threads' library that the chart names, where they are there."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "LD_PRELOAD"

log = logging.getLogger(__name__)


def drop_missing(environment: MutableMapping[str, str] = os.environ) -> None:
    """Names libraries that are not there once, where the loader would complain at each start of a process."""
    libraries = [name for name in re.split(r"[:\s]+", environment.get(VARIABLE, "")) if name]
    missing = [name for name in libraries if "/" in name and not Path(name).is_file()]
    if missing:
        log.warning(
            "envVars.ldPreload: %s not in this image, and left out: name what it has, or null",
            " and ".join(missing) + (" is" if len(missing) == 1 else " are"),
        )
        environment[VARIABLE] = ":".join(name for name in libraries if name not in missing)
