"""Keys under the names of an earlier release mean what they meant, and one line says the new name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_finetune.config import Settings, load, load_merged
from llm_finetune.config.fields import Key, keys
from llm_finetune.errors import SettingsError
from llm_finetune.pipeline import fingerprint

RENAMED = [(path, key) for path, key in keys(Settings) if key.was is not None]
OTHERS: dict[Any, Any] = {True: False, False: True, "auto": "off", 8: 3}


def other(path: str, key: Key) -> Any:
    """A value that is not the default."""
    if path == "train.overflowStrategy":
        return "split"
    return OTHERS.get(key.default, key.default / 2 if isinstance(key.default, float) else None)


def at(settings: Settings, path: str) -> Any:
    value: Any = settings.to_values()
    for name in path.split("."):
        value = value[name]
    return value


def merged(tmp_path: Path, removed: str, **given: Any) -> Path:
    """Settings as the chart mounts them: all keys but one, and one under an earlier name."""
    tree = {"distributed": load([]).settings.to_values()}
    for path, value in given.items():
        place: Any = tree["distributed"]
        *groups, name = path.split("/")
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    *groups, name = removed.split(".")
    place = tree["distributed"]
    for group in groups:
        place = place[group]
    place.pop(name, None)
    (tmp_path / "settings.json").write_text(json.dumps(tree))
    return tmp_path / "settings.json"


@pytest.mark.parametrize(("path", "key"), RENAMED)
def test_an_old_name_works_and_one_line_says_the_new_one(tmp_path: Path, path: str, key: Key) -> None:
    value = other(path, key)
    line = f"distributed.{key.was} is now distributed.{path}; the old name works until the next release"
    option = f"distributed.{key.was}={json.dumps(value)}"
    loaded = load([], set_json=[option])
    assert loaded.warnings == [f"--set-json: {line}"]
    assert at(loaded.settings, path) == value
    assert loaded.settings == load([], set_json=[f"distributed.{path}={json.dumps(value)}"]).settings
    # In Helm's merged values the default of the new name stands beside it; after --reuse-values it does not.
    assert key.was is not None
    for removed in ("nothing", path):
        loaded = load_merged(merged(tmp_path, removed, **{key.was.replace(".", "/"): value}))
        assert (loaded.warnings, at(loaded.settings, path)) == ([line], value)
    with pytest.raises(SettingsError) as both:
        load([], set_json=[option, f"distributed.{path}={json.dumps(key.default)}"])
    assert both.value.problems == [
        f"--set-json: distributed.{key.was}: is now distributed.{path}, and both are set; write only that"
    ]


def test_merged_values_with_both_names_are_refused_where_neither_is_a_default(tmp_path: Path) -> None:
    file = merged(tmp_path, "nothing", **{"train/saveMinutes": 5, "train/saveIntervalMinutes": 6})
    with pytest.raises(SettingsError, match=r"saveMinutes: is now .*saveIntervalMinutes, and both are set"):
        load_merged(file)
    # A release that is upgraded with --reuse-values has the old default.
    file = merged(tmp_path, "nothing", **{"train/saveMinutes": 30, "train/saveIntervalMinutes": 6})
    assert load_merged(file).settings.train.save_interval_minutes == 6


def test_a_null_under_an_old_name_takes_the_default_away(tmp_path: Path) -> None:
    assert (
        load([], set_values=["distributed.train.saveMinutes=null"]).settings.train.save_interval_minutes
        is None
    )
    file = merged(tmp_path, "nothing", **{"train/saveMinutes": None})
    assert load_merged(file).settings.train.save_interval_minutes is None


@pytest.mark.parametrize(
    ("given", "path", "now"),
    [
        ("train.promptFormat=sections", "train.promptFormat", "alpaca"),
        ("train.overflowStrategy=refuse", "train.overflowStrategy", "error"),
        ("train.tooLong=refuse", "train.overflowStrategy", "error"),
    ],
)
def test_an_old_value_works_and_one_line_says_the_new_one(given: str, path: str, now: str) -> None:
    loaded = load([], set_values=[f"distributed.{given}"])
    key, _, value = given.partition("=")
    assert at(loaded.settings, path) == now
    expected = (
        f'--set: distributed.{key}: "{value}" is now "{now}"; the old value works until the next release'
    )
    assert loaded.warnings[-1] == expected


def test_a_wrong_value_is_told_with_the_name_that_was_written() -> None:
    with pytest.raises(SettingsError) as caught:
        load([], set_values=["distributed.train.tooLong=never"])
    (line,) = caught.value.problems
    assert line.startswith(
        '--set (distributed.train.tooLong): distributed.train.overflowStrategy: found "never"'
    )


def test_the_validation_fraction_under_either_name_but_not_both() -> None:
    def share(*options: str) -> float:
        evaluation = load([], set_values=[f"distributed.eval.{option}" for option in options]).settings.eval
        return evaluation.validation_share

    assert share() == share("validationFraction=0.2") == 0.2
    assert share("validationFraction=0.1") == share("validationSplitPercentage=0.1") == 0.1
    for percentage in ("0.3", "0.2"):
        with pytest.raises(SettingsError, match="both are set; write only one") as both:
            share("validationFraction=0.1", f"validationSplitPercentage={percentage}")
        assert len(both.value.problems) == 1


def test_what_an_earlier_release_stored_of_a_run_is_this_run() -> None:
    """Each key under its old name, with the values of today: nothing is done again."""
    settings = load([], set_values=["distributed.train.promptFormat=alpaca"]).settings
    sources = fingerprint.Sources(settings.to_values(), model="m", records="r", validation="")
    new = {**sources.tuned_model(), **sources.section("eval")}
    names = {f"distributed.{path}": f"distributed.{key.was}" for path, key in RENAMED}
    old = {names.get(path, path): value for path, value in new.items()}
    old["distributed.train.promptFormat"] = "sections"
    del old["distributed.eval.validationFraction"]
    assert "distributed.train.tooLong" in old
    assert fingerprint.is_same(old, new)
    old["distributed.train.tooLong"] = "refuse"
    assert (
        fingerprint.first_difference(old, new)
        == "distributed.train.overflowStrategy was 'error' and is 'auto'"
    )
