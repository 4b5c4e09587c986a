"""The log: plain lines on standard error, one process speaking for all."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def configure(level: str, rank: int) -> None:
    """Sets up logging for this process.

    Args:
        level: debug, info, warning, error or critical.
        rank: rank 0 speaks; the others only of warnings, under their number.
    """
    name = "" if rank == 0 else f" rank {rank}:"
    line = f"%(asctime)s %(levelname)s{name} %(message)s"
    logging.basicConfig(stream=sys.stderr, force=True, format=line, datefmt="%H:%M:%S")
    wanted = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("llm_finetune").setLevel(wanted if rank == 0 else max(wanted, logging.WARNING))
    if wanted > logging.DEBUG:
        _quiet_libraries()


def _quiet_libraries() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        # A bar in a log is a line a second for hours.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
