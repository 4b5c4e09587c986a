"""From values files and --set options to settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llm_finetune.config import cross_field_rules, renamed, validation
from llm_finetune.config.cross_field_rules import SHARE_TWICE
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
    tree, warnings, given_twice = _under_current_names(values)
    problems += given_twice
    # What an unreadable file would have set is not known, so what holds between keys cannot be asked.
    between = partial(_between, values) if not values.problems else lambda settings: iter(())
    try:
        settings = validation.read(Settings, tree, values.origin, between)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(_bounded(problems))
    return Loaded(settings, _bounded([*warnings, *_warnings(values), *values.remarks]))


def from_values(tree: Any, origin: str = "settings") -> Settings:
    """Read a merged section `distributed`, with nothing beneath it: an absent key is none.

    Args:
        tree: camelCase keys, as in JSON.
        origin: where the tree comes from, for errors.

    Raises:
        SettingsError: one line per problem.
    """
    return validation.read(Settings, tree, lambda path: origin, cross_field_rules.broken)


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
    current = renamed.current(Settings, tree[validation.ROOT], validation.ROOT)
    if current.problems:
        raise SettingsError([f"{file}: {_dotted(old)}: {text}" for old, text in current.problems])
    settings = from_values(current.tree, str(file))
    return Loaded(settings, [line for _, line in current.warnings])


def _under_current_names(values: Values) -> tuple[Any, list[str], list[str]]:
    """The section, warnings of its earlier names, and problems where both names are given."""
    current = renamed.current(
        Settings,
        values.tree.get(validation.ROOT),
        validation.ROOT,
        lambda path, key, value: values.origin((validation.ROOT, *path)) != CHART,
    )
    warnings = [f"{values.origin((validation.ROOT, *path))}: {line}" for path, line in current.warnings]
    problems = [
        f"{values.origin((validation.ROOT, *old))}: {_dotted(old)}: {text}" for old, text in current.problems
    ]
    for new, old in current.moved.items():
        # An error about the value names the key as it was written, too.
        values.record([(validation.ROOT, *new)], f"{values.origin((validation.ROOT, *old))} ({_dotted(old)})")
    return current.tree, warnings, problems


def _between(values: Values, settings: Settings) -> Iterator[validation.Problem]:
    """What is wrong between keys; of two for one thing also where one says what the chart says."""
    broken = list(cross_field_rules.broken(settings))
    is_given = values.origin((validation.ROOT, *cross_field_rules.SHARE)) != CHART
    if settings.eval.validation_fraction is not None and is_given and SHARE_TWICE not in broken:
        broken.append(SHARE_TWICE)
    yield from broken


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join((validation.ROOT, *path))


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
