"""A clean start for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def clean_process(outside_any_group: None) -> None:
    """For every test here."""
