"""The log: plain lines on standard error, one process speaking for all.

What comes from outside, a record, a template, a name, steers no terminal and passes for no line of the log.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from contextlib import suppress
from types import TracebackType

LONGEST = 4000  # characters of a message or an error
MARGIN = "    "
# Control characters but tab and line feed, line and paragraph separators, bidirectional overrides; and halves
# of surrogate pairs, as which Python reads what is no text in a file's name.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with what would steer a terminal escaped; its lines stay lines."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def entry(text: str) -> str:
    """The text as one message: plain, of bounded length, and only its first line begins at the margin."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text) - LONGEST:,} characters more)"
    return plain(text).replace("\n", f"\n{MARGIN}")


def indented(text: str) -> str:
    """The text as a block: plain, and none of its lines begins at the margin."""
    return MARGIN + plain(text).replace("\n", f"\n{MARGIN}")


def tell(*texts: str) -> None:
    """Each text as a message on standard error, beside the log; its reader may have closed it."""
    with suppress(OSError):
        for text in texts:
            print(entry(text), file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return entry(super().formatMessage(record))

    def formatException(  # noqa: N802
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return indented(super().formatException(ei))


def configure(level: str, rank: int) -> None:
    """Sets up logging for this process.

    Args:
        level: debug, info, warning, error or critical.
        rank: rank 0 speaks; the others only of warnings, under their number.
    """
    name = "" if rank == 0 else f" rank {rank}:"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)s{name} %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], force=True)
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
