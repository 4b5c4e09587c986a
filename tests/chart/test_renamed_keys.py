"""The chart takes the key names of an earlier release, in installations and in upgrades."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import Chart, container, copy_chart_with_notes, settings

OLD = {
    "storage": {"keep": False, "waitForDataMinutes": 5},
    "distributed": {
        "leaveSeconds": 7,
        "train": {"tooLong": "refuse", "saveMinutes": None, "speed": {"head": "off"}},
        "eval": {"base": False},
    },
}
WARNING = "WARNING: distributed.train.tooLong is now distributed.train.overflowStrategy"


def test_old_names_mean_what_they_meant_and_notes_say_the_new_ones(chart_with_notes: Chart) -> None:
    objects = chart_with_notes.render(OLD)
    job = next(found for found in objects if found["kind"] == "PyTorchJob")
    claim = next(found for found in objects if found["kind"] == "PersistentVolumeClaim")
    arguments = container(job)["args"]
    assert arguments[arguments.index("--upload-timeout-minutes") + 1] == "5"
    assert "annotations" not in claim["metadata"]
    arrived = settings(objects)
    assert arrived["leaveSeconds"] == 7  # the job reads both names
    assert arrived["train"]["tooLong"] == "refuse"
    assert arrived["train"]["saveMinutes"] is None
    notes = chart_with_notes.notes(OLD)
    assert notes.count("the old name works until the next release") == 7
    assert WARNING in notes
    assert "storage.retain is false" in notes
    assert "old name" not in chart_with_notes.notes()


@pytest.mark.parametrize(
    "both",
    [
        {"storage": {"waitForDataMinutes": 5, "uploadTimeoutMinutes": 6}},
        {"distributed": {"train": {"tooLong": "split", "overflowStrategy": "error"}}},
        {"distributed": {"train": {"speed": {"head": "off"}, "optimizations": {"fusedCrossEntropy": "on"}}}},
    ],
)
def test_both_names_are_refused(chart: Chart, both: Any) -> None:
    assert "and both are set; write only that" in chart.refusal(both)


def test_a_release_with_the_defaults_of_the_earlier_chart(tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` puts them in place of the chart's own: the new names are not there."""
    folder = copy_chart_with_notes(tmp_path / "chart")
    chart = Chart(folder)
    values = yaml.safe_load((folder / "values.yaml").read_text())
    train, evaluation = values["distributed"]["train"], values["distributed"]["eval"]
    for group, new, old in (
        (values["storage"], "retain", "keep"),
        (values["storage"], "uploadTimeoutMinutes", "waitForDataMinutes"),
        (values["distributed"], "shutdownGraceSeconds", "leaveSeconds"),
        (train, "overflowStrategy", "tooLong"),
        (evaluation, "evaluateBaseModel", "base"),
    ):
        group[old] = group.pop(new)
    attention = train["optimizations"].pop("packedAttention")
    train["speed"] = {"attention": attention}
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    assert settings(chart.render())["train"]["tooLong"] == "auto"
    # And the upgrade may say the new name.
    new = {"distributed": {"train": {"overflowStrategy": "split"}}, "storage": {"uploadTimeoutMinutes": 6}}
    objects = chart.render(new)
    assert settings(objects)["train"]["overflowStrategy"] == "split"
    job = next(found for found in objects if found["kind"] == "PyTorchJob")
    assert "6" in container(job)["args"]
