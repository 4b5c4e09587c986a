"""Loading the heavy libraries in less time: nothing is collected, and what no job needs stays out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The Trainer imports it, and pandas and pyarrow with it, only to recognize its tables, which no stage has.
UNNEEDED = "datasets"


@contextmanager
def loading() -> Iterator[None]:
    """The body imports torch, transformers and what is built on them.

    They make a million objects, which stay: the collector would go through all of them again and again, now
    and in the middle of the training.
    """
    gc.disable()
    hidden = UNNEEDED not in sys.modules
    if hidden:
        sys.modules[UNNEEDED] = None  # type: ignore[assignment]  # importlib's word for "not to be had"
    try:
        yield
    finally:
        if hidden:
            del sys.modules[UNNEEDED]
        gc.freeze()
        gc.enable()
