"""Tests that feed a reader whatever could reach it from outside.

`make fuzz` runs them alone, with FUZZ_TIMES times the examples that `make test` takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Marks a test that takes so many examples in `make test`."""
    chosen = settings(
        deadline=None,
        max_examples=examples * TIMES,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    marks = [pytest.mark.fuzz] if TIMES == 1 else [pytest.mark.fuzz, pytest.mark.timeout(3600)]

    def marked(test: Any) -> Any:
        test = chosen(test)
        for mark in marks:
            test = mark(test)
        return test

    return marked
