"""The chart, copied once for all tests of a session."""

from __future__ import annotations

import pytest
from rendering import HELM, Chart, copy_chart, copy_chart_with_notes


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    if HELM is None:
        pytest.skip("needs helm")
    return Chart(copy_chart(tmp_path_factory.mktemp("chart")))


@pytest.fixture(scope="session")
def chart_with_notes(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    if HELM is None:
        pytest.skip("needs helm")
    return Chart(copy_chart_with_notes(tmp_path_factory.mktemp("chart_with_notes")))
