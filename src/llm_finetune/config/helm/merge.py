"""Merges the chart's values, values files and --set options exactly as Helm 3.17 does.

The order is Helm's own, whatever the order on the command line: the chart's values.yaml, the files,
--set-json, --set, --set-string. Mappings merge, everything else replaces, null removes what the chart says.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_finetune.config.helm import set_options
from llm_finetune.config.helm.yaml import MAX_BYTES, Document, read_yaml

KeyPath = tuple[str, ...]

CHART = "values.yaml of the chart"
OPTIONS = {
    "--set-json": set_options.set_json,
    "--set": set_options.set_values,
    "--set-string": set_options.set_strings,
}


@dataclass
class Values:
    """Merged values, who set what, and what could not be read.

    Args:
        tree: the values; a key that null removed is absent.
        problems: one line for each file or option that could not be read.
        remarks: one line for each thing that Helm passes over in silence.
    """

    tree: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _set: list[tuple[KeyPath, str]] = field(default_factory=list)

    def origin(self, path: KeyPath) -> str:
        """The file or option that last set this path, or what is above or below it."""
        for other, origin in reversed(self._set):
            shorter = min(len(other), len(path))
            if other[:shorter] == path[:shorter]:
                return origin
        return CHART

    def record(self, paths: Sequence[KeyPath], origin: str) -> None:
        self._set += [(path, origin) for path in paths]


def chart_values() -> dict[str, Any]:
    """The chart's values.yaml: beside this file in an installed package, else at the top of the checkout."""
    here = Path(__file__).resolve()
    installed = here.with_name("values.yaml")
    file = installed if installed.exists() else here.parents[4] / "values.yaml"
    return read_yaml(file.read_bytes()).values


def merge(
    chart: dict[str, Any],
    files: Sequence[Path],
    set_json: Sequence[str] = (),
    set_values: Sequence[str] = (),
    set_strings: Sequence[str] = (),
) -> Values:
    """Merge files and options over the chart's values.

    Args:
        chart: what lies beneath.
        files: values files, a later one wins; `-` is standard input.
        set_json, set_values, set_strings: the texts of --set-json, --set and --set-string.
    """
    merged = Values(tree={})
    for file in files:
        try:
            document = _read(file)
        except (OSError, ValueError) as error:
            merged.problems.append(f"{file}: {_reason(error)}")
            continue
        if not document.values:
            merged.remarks.append(f"{file}: holds no values, so it changes none")
        merged.remarks += [f"{file}: {remark}" for remark in document.remarks]
        merged.tree = _over(merged.tree, document.values)
        merged.record(_leaves(document.values), str(file))
    for (option, apply), texts in zip(OPTIONS.items(), (set_json, set_values, set_strings), strict=True):
        for text in texts:
            tree = copy.deepcopy(merged.tree)
            try:
                text.encode()  # what the shell handed over may be no UTF-8
                merged.record(apply(tree, text), option)
            except ValueError as error:
                merged.problems.append(f"{option} {text}: {error}")
            else:
                merged.tree = tree
    _lay_beneath(merged.tree, copy.deepcopy(chart))
    return merged


def _read(file: Path) -> Document:
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as opened:
        return read_yaml(opened.read(MAX_BYTES + 1))


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One file over the files before it: a null stays, to remove what the chart says."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = _over(old, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return merged


def _lay_beneath(tree: dict[str, Any], chart: dict[str, Any]) -> None:
    """The chart's values under everything else, where a null removes."""
    for key, value in chart.items():
        if key not in tree:
            tree[key] = value
        elif tree[key] is None:
            del tree[key]
        elif isinstance(tree[key], dict) and isinstance(value, dict):
            _lay_beneath(tree[key], value)


def _leaves(tree: dict[str, Any], above: KeyPath = ()) -> list[KeyPath]:
    paths: list[KeyPath] = []
    for key, value in tree.items():
        inner = isinstance(value, dict) and value
        paths += _leaves(value, (*above, key)) if inner else [(*above, key)]
    return paths
