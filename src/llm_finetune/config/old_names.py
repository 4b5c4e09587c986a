"""The earlier names of keys, as the chart has them: in its schema and in its templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
Schema = dict[str, Any]


@dataclass(frozen=True)
class OldName:
    """A key's earlier and present name, by their whole paths, and its default."""

    old: str
    new: str
    default: Any


def with_old_names(schema: Schema, names: Sequence[OldName]) -> Schema:
    """The schema in which each of these keys may stand under either name."""
    for name in names:
        old, new = tuple(name.old.split(".")), tuple(name.new.split("."))
        key = _at(schema, new)
        mark = {
            "description": f"The earlier name of {name.new}; it works until the next release.",
            "deprecated": True,
        }
        _add(schema, old, {**{word: key[word] for word in key if word != "default"}, **mark})
        shared = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
        if _release(schema, new, shared):
            either = {"anyOf": [_requiring(new[shared:]), _requiring(old[shared:])]}
            _at(schema, new[:shared]).setdefault("allOf", []).append(either)
    return schema


def without_old_names(schema: Schema) -> Schema:
    """What `with_old_names` was given."""
    properties = schema.get("properties", {})
    for name in [name for name, inner in properties.items() if inner.get("deprecated")]:
        del properties[name]
    for either in schema.pop("allOf", []):
        _require(schema, either["anyOf"][0])
    for inner in properties.values():
        without_old_names(inner)
    return schema


def template(names: Sequence[OldName]) -> str:
    """A named template that holds the list as JSON, for the chart's other templates."""
    lines = ",\n  ".join(
        json.dumps({"old": name.old, "new": name.new, "default": name.default}) for name in names
    )
    return f'{{{{- define "llm-finetune.oldNames" -}}}}\n[\n  {lines}\n]\n{{{{- end -}}}}'


def _at(schema: Schema, path: Path) -> Schema:
    for name in path:
        schema = schema["properties"][name]
    return schema


def _add(schema: Schema, path: Path, key: Schema) -> None:
    for name in path[:-1]:
        group: Schema = {
            "deprecated": True,
            "type": "object",
            "additionalProperties": False,
            "properties": {},
        }
        schema = schema["properties"].setdefault(name, group)
    schema["properties"][path[-1]] = key


def _release(schema: Schema, path: Path, shared: int) -> bool:
    """Require the key, and the groups that hold it and not its earlier name, no longer; whether it was."""
    required = path[-1] in _at(schema, path[:-1]).get("required", [])
    if required:
        for depth in range(shared, len(path)):
            above = _at(schema, path[:depth])
            above["required"] = [name for name in above["required"] if name != path[depth]]
    return required


def _require(schema: Schema, demand: Schema) -> None:
    schema["required"] = list(dict.fromkeys([*schema["required"], *demand["required"]]))
    for name, inner in demand.get("properties", {}).items():
        _require(schema["properties"][name], inner)


def _requiring(path: Path) -> Schema:
    name, *rest = path
    inner = {"properties": {name: _requiring(tuple(rest))}} if rest else {}
    return {"required": [name], **inner}
