"""Random values that a JSON schema of draft 7 allows, for hypothesis."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
# Helm's YAML knows no control characters.
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc"])


def random_values(schema: Schema, without: Collection[str] = ()) -> st.SearchStrategy[Schema]:
    """Nested values with one to twelve of the keys that the schema knows.

    Args:
        without: keys to leave out, with dots.
    """
    left = {path: leaf for path, leaf in leaves(schema).items() if ".".join(path) not in without}
    known = {path: allowed(leaf, schema) for path, leaf in left.items()}
    several = st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=12, unique=True)
    return several.flatmap(lambda paths: st.fixed_dictionaries({path: known[path] for path in paths})).map(
        nested
    )


def leaves(schema: Schema, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Schema]:
    """The schema of each key that holds no further keys."""
    found: dict[tuple[str, ...], Schema] = {}
    for key, inner in schema.get("properties", {}).items():
        found |= leaves(inner, (*above, key)) or {(*above, key): inner}
    return found


def nested(values: dict[tuple[str, ...], Any]) -> Schema:
    tree: Schema = {}
    for path, value in values.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return tree


def allowed(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    """What a part of the schema allows.

    Args:
        root: holds the definitions that parts refer to.
    """
    if "$ref" in schema:
        return allowed(root["definitions"][schema["$ref"].removeprefix("#/definitions/")], root)
    if "anyOf" in schema:
        return st.one_of([allowed(choice, root) for choice in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", "object")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return st.one_of([_of_type(kind, schema, root) for kind in kinds])


def _of_type(kind: str, schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            numbers = st.floats(*_range(schema), allow_nan=False, allow_infinity=False)
            return numbers.filter(lambda number: number not in _excluded(schema))
        case "string":
            # Helm's `\s` and `\d` are ASCII's.
            pattern = st.from_regex(re.compile(schema.get("pattern", ""), re.ASCII), alphabet=CHARACTERS)
            # Python's `$` also matches before a last line break.
            return pattern.filter(lambda text: len(text) <= schema.get("maxLength", 400) and "\n" not in text)
        case "array":
            return st.lists(
                allowed(schema.get("items", {}), root),
                min_size=schema.get("minItems", 0),
                max_size=2,
                unique=schema.get("uniqueItems", False),
            )
        case "object":
            return _object(schema, root)
    raise AssertionError(f"a type that no schema knows: {kind}")


def _range(schema: Schema) -> tuple[float | None, float | None]:
    return (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )


def _excluded(schema: Schema) -> tuple[float | None, float | None]:
    return schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")


def _object(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    known = {key: allowed(inner, root) for key, inner in schema.get("properties", {}).items()}
    needed = {key: known.pop(key) for key in schema.get("required", ())}
    others = schema.get("additionalProperties")
    if known or needed or not others:
        return st.fixed_dictionaries(needed, optional=known)
    return st.dictionaries(allowed(schema["propertyNames"], root), allowed(others, root), max_size=3)
