"""From values files and --set options to settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llm_finetune.config import cross_field_rules, validation
from llm_finetune.config.helm.merge import CHART, Values, chart_values, merge
from llm_finetune.config.schema import Settings
from llm_finetune.errors import SettingsError

# Helm has this one for every chart; the other stands in older values files.
GLOBAL = "global"
WITHOUT_EFFECT = "metadata"
MOST_LINES = 50


@dataclass(frozen=True)
class Loaded:
    """Settings, and one line for each thing that the user should know though nothing is wrong."""

    settings: Settings
    warnings: list[str]


def load(
    files: Sequence[Path],
    set_json: Sequence[str] = (),
    set_values: Sequence[str] = (),
    set_strings: Sequence[str] = (),
) -> Loaded:
    """Read settings as `helm install -f … --set …` would, the chart's own values beneath.

    Args:
        files: values files, a later one wins; `-` is standard input.
        set_json, set_values, set_strings: the texts of --set-json, --set and --set-string, in this order.

    Raises:
        SettingsError: one line per problem: the file or option, the key, what was found, what was expected.
    """
    chart = chart_values()
    values = merge(chart, files, set_json, set_values, set_strings)
    problems = [*values.problems, *islice(_unknown_sections(values, [*chart, GLOBAL]), MOST_LINES + 1)]
    tree = values.tree.get(validation.ROOT)
    # What an unreadable file would have set is not known, so what holds between keys cannot be asked.
    between = cross_field_rules.broken if not values.problems else lambda settings: iter(())
    try:
        settings = validation.read(Settings, tree, values.origin, between)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(_bounded(problems))
    return Loaded(settings, _bounded([*_warnings(values), *values.remarks]))


def load_merged(file: Path) -> Loaded:
    """Read settings that Helm has merged already, as the chart mounts them: a key that is absent is none.

    Raises:
        SettingsError: one line per problem.
    """
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(tree, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"{file}: cannot be read ({error}); expected the merged values in JSON"
        ) from error
    if not isinstance(tree, dict) or set(tree) != {validation.ROOT}:
        raise SettingsError(f"{file}: expected one section, {validation.ROOT}, and nothing beside it")
    return Loaded(Settings.from_values(tree[validation.ROOT], str(file)), [])


def _bounded(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], "and more of the kind"]


def _unknown_sections(values: Values, known: list[str]) -> Iterator[str]:
    for name in values.tree:
        if name in known or name == WITHOUT_EFFECT:
            continue
        near = f"{validation.ROOT}.{name}" if name in Settings.entries() else validation.nearest(name, known)
        hint = f"; did you mean {near}?" if near else f"; known: {', '.join(known)}"
        yield f"{values.origin((name,))}: {name}: unknown key{hint}"


def _warnings(values: Values) -> Iterator[str]:
    if WITHOUT_EFFECT in values.tree:
        yield (
            f"{values.origin((WITHOUT_EFFECT,))}: {WITHOUT_EFFECT}: has no effect; "
            "the namespace of the Helm release counts"
        )
    train = values.tree[validation.ROOT]["train"]
    fast = (validation.ROOT, "train", "useFastTokenizer")
    if train["useFastTokenizer"] is False and values.origin(fast) != CHART:
        yield f"{values.origin(fast)}: {'.'.join(fast)}: every tokenizer is a fast one; false means true"
