"""Whatever stands in values files and options: settings, or errors that say what is wrong; no other end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz import fuzz
from llm_finetune.config import Settings, from_values, load, load_merged
from llm_finetune.config.fields import Key
from llm_finetune.config.helm import merge
from llm_finetune.config.validation import ROOT
from llm_finetune.errors import SettingsError

ANY = fuzz(100)


def keys(section: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each key and each group of keys."""
    for name, entry in section.entries().items():
        yield (*above, name)
        if not isinstance(entry, Key):
            yield from keys(entry, (*above, name))


KEYS = [(ROOT, *path) for path in keys(Settings)]
TEXT = st.text(st.characters(), max_size=12)  # halves of surrogate pairs among them
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**400, -0.0, 1e308])
NAMES = TEXT | st.sampled_from([name for path in KEYS for name in path] + ["global", "metadata", "image"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["auto", "no", "~/a", "1e9", "9" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)
# What YAML is made of, and the options.
PIECES = [
    *"[]{},:?|#~'\"\\\n\t \x00\ufeff\x85\u2028é1",
    *("&a ", "*a", "<<: ", "!!int ", "!!binary ", "!x ", "- ", ": ", ">-", "---\n", "...\n", "%YAML 1.1\n"),
    *("\n  ", "0x", "1e9", "distributed:", "train", "epochs", "true", "null"),
]
YAML = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
GRAMMAR = [
    *'[]{}=.,\\": é01a\ud800',
    *(
        "[0]",
        "[65536]",
        "[65537]",
        "[-1]",
        "9" * 5000,
        "true",
        "null",
        "1e999",
        "distributed",
        "train",
        "epochs",
    ),
]
OPTION = st.lists(st.sampled_from(GRAMMAR), max_size=25).map("".join) | TEXT
OPTION |= st.builds(lambda path, text: f"{'.'.join(path)}={text}", st.sampled_from(KEYS), OPTION)


@pytest.fixture(autouse=True, scope="module")
def chart() -> Iterator[None]:
    """Read once."""
    read = merge.chart_values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("llm_finetune.config.loader"), "chart_values", lambda: read)
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


@contextmanager
def right_or_refused(named: str = "") -> Iterator[None]:
    """The body succeeds, or raises lines that can be shown."""
    try:
        yield
    except SettingsError as error:
        if not 0 < len(error.problems) < 100 or not all(error.problems) or named not in str(error):
            raise AssertionError("no line says what is wrong") from error


@given(content=st.binary(max_size=200) | YAML.map(lambda text: text.encode()))
@example(content=b"[" * 300_000)
@example(content=b"- " * 300_000)
@example(content=b"a: &a [*a]")
@ANY
def test_any_bytes_for_a_values_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with right_or_refused():
        load([file])


@given(tree=st.dictionaries(NAMES, JSON, max_size=4) | JSON)
@ANY
def test_any_tree_for_a_values_file(file: Path, tree: Any) -> None:
    file.write_text(json.dumps(tree))
    with right_or_refused():
        load([file])


@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3))
@ANY
def test_any_value_for_any_key(file: Path, changes: dict[tuple[str, ...], Any]) -> None:
    """What is taken arrives the same in another process."""
    tree: dict[str, Any] = {}
    for path, value in sorted(changes.items()):
        place = tree
        for name in path[:-1]:
            inner = place.setdefault(name, {})
            place = inner if isinstance(inner, dict) else {}
        place[path[-1]] = value
    file.write_text(json.dumps(tree))
    with right_or_refused():
        found = load([file]).settings
        assert from_values(json.loads(json.dumps(found.to_values()))) == found


@given(
    texts=st.lists(OPTION, min_size=1, max_size=3),
    option=st.sampled_from(["set_values", "set_strings", "set_json"]),
)
@ANY
def test_any_text_for_an_option(texts: list[str], option: str) -> None:
    with right_or_refused():
        load([], **{option: texts})


@given(path=st.sampled_from(KEYS), value=JSON)
@ANY
def test_any_json_for_any_key(path: tuple[str, ...], value: Any) -> None:
    with right_or_refused():
        load([], set_json=[f"{'.'.join(path)}={json.dumps(value)}"])


@given(content=st.binary(max_size=200) | JSON.map(lambda tree: json.dumps({ROOT: tree}).encode()))
@example(content=b'{"distributed": ' + b"[" * 100_000)
@ANY
def test_any_bytes_for_merged_settings(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with right_or_refused(str(file)):
        load_merged(file)


@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3))
@example(changes={(ROOT, "script"): {"\ud800": None}})
@ANY
def test_any_value_for_any_key_of_merged_settings(file: Path, changes: dict[tuple[str, ...], Any]) -> None:
    tree = {ROOT: load([]).settings.to_values()}
    for path, value in changes.items():
        place: Any = tree
        for name in path[:-1]:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[path[-1]] = value
    file.write_text(json.dumps(tree))
    with right_or_refused(str(file)):
        load_merged(file)
