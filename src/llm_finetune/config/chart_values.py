"""The chart's own keys: values.yaml's comments describe them; schema and documentation repeat that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm_finetune.config.helm.yaml import read_yaml

# In the schema alone: Helm's own section, and one that stands in older values files.
NOT_IN_VALUES = ("global", "metadata")
_KEY = re.compile(r"(?P<indent> *)(?P<name>\w+):")
_COMMENT = re.compile(r" *# (?P<begin>-- (\((?P<kind>[a-z ]+)\) )?(\[was (?P<was>[\w.]+)\] )?)?(?P<text>.*)")
_KINDS = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "map"}


@dataclass(frozen=True)
class ChartKey:
    """A key outside `distributed`.

    Args:
        path: such as image.name.
        kind: the word for its type in tables.
        default: what values.yaml says.
        meaning: the comment above it, that begins with `--`.
        was: an earlier name that still works, from the comment's `[was …]`.
    """

    path: str
    kind: str
    default: Any
    meaning: str
    was: str | None = None


def read_keys(text: str) -> list[ChartKey]:
    """The keys of a values file whose comments begin with `--`, in their order.

    Raises:
        ValueError: a key that holds no others has no such comment.
    """
    values = read_yaml(text.encode()).values
    keys: list[ChartKey] = []
    above: list[str] = []
    kind = was = None
    meaning = ""
    inside: int | None = None  # the indent of a key whose value is a mapping of the user's
    for line in text.splitlines():
        comment, key = _COMMENT.match(line), _KEY.match(line)
        if comment:
            kind, was, meaning = _continued(kind, was, meaning, comment)
        elif key:
            depth = len(key["indent"]) // 2
            if inside is not None and depth > inside:
                continue
            above = [*above[:depth], key["name"]]
            inside = depth if meaning else None
            default = _value(values, above)
            if meaning:
                kind = kind or _KINDS[type(default)]
                keys.append(ChartKey(".".join(above), kind, default, meaning, was))
            elif not isinstance(default, dict):
                raise ValueError(f"values.yaml: {'.'.join(above)}: no comment that begins with `# --`")
            kind, was, meaning = None, None, ""
        else:
            kind, was, meaning = None, None, ""
    return keys


def _continued(
    kind: str | None, was: str | None, meaning: str, comment: re.Match[str]
) -> tuple[str | None, str | None, str]:
    if comment["begin"]:
        return comment["kind"], comment["was"], comment["text"]
    return kind, was, f"{meaning} {comment['text']}" if meaning else ""


def _value(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def described(schema: dict[str, Any], keys: list[ChartKey]) -> dict[str, Any]:
    """The properties of a schema with each key's meaning and default.

    Raises:
        ValueError: the schema and the keys differ.
    """
    meanings = {key.path: key for key in keys}
    known = set(_leaves(schema, "", set(meanings)))
    if apart := known.symmetric_difference(meanings):
        raise ValueError(f"values.yaml and values.schema.json differ in {', '.join(sorted(apart))}")
    return _with_meanings(schema, "", meanings)


def _leaves(properties: dict[str, Any], above: str, known: set[str]) -> Iterator[str]:
    for name, node in properties.items():
        path = above + name
        if path in known or "properties" not in node:
            yield path
        else:
            yield from _leaves(node["properties"], f"{path}.", known)


def _with_meanings(properties: dict[str, Any], above: str, keys: dict[str, ChartKey]) -> dict[str, Any]:
    whole = {}
    for name, node in properties.items():
        key = keys.get(above + name)
        if key is None:
            inner = _with_meanings(node["properties"], f"{above}{name}.", keys)
            whole[name] = {**node, "properties": inner}
        else:
            whole[name] = {**node, "description": key.meaning, "default": key.default}
    return whole


def shown(value: Any) -> str:
    """A default as the table shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
