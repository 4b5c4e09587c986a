"""The words for what a key takes, for errors and tables, from the key's JSON schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

from pydantic_core import ErrorDetails

from llm_finetune.config.types import LARGEST

Schema = dict[str, Any]
_BOUNDS = {
    "minimum": "{:g} or more",
    "exclusiveMinimum": "above {:g}",
    "exclusiveMaximum": "below {:g}",
    "maximum": "{:g} at most",
}
_TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "string", "array": "string"}


def expected(schema: Schema) -> str:
    """What an error asks for; null and other spellings are not named."""
    first, *others = _alternatives(schema)
    if first["type"] == "integer":
        words = _whole(first)
        for other in others:
            share = other["type"] == "number"
            words += ", or a share of all steps from 0 to below 1" if share else f", or {other['const']}"
        return words
    if first["type"] == "number":
        bounds = [words.format(first[name]) for name, words in _BOUNDS.items() if name in first]
        return f"a number, {' and '.join(bounds)}"
    if first["type"] == "array":
        few = first["items"].get("anyOf", [{}])[0].get("enum")
        return f"names{' of ' + ', '.join(few) if few else ''}, with spaces between"
    options = [option for one in (first, *others) for option in _options(one)]
    if options == [True, False]:
        return "true or false"
    words_of = [option if isinstance(option, str) else json.dumps(option) for option in options]
    return f"one of {', '.join(words_of)}" if options else "text"


def kind(schema: Schema) -> str:
    """The word for the type in tables."""
    return " or ".join(dict.fromkeys(_TYPES[one["type"]] for one in _alternatives(schema)))


def hint(errors: Sequence[ErrorDetails]) -> str:
    """What a check says beside what is expected; mostly nothing."""
    for error in errors:
        if error["type"] == "value_error" and str(error["ctx"]["error"]):
            return f"; {error['ctx']['error']}"
        if error["type"] == "less_than_equal" and error["ctx"]["le"] == LARGEST:
            return f"; {LARGEST} at most"
    return ""


def shown(value: Any) -> str:
    """A value as an error shows it: shortened, with its type."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        first = ", ".join(str(name)[:30] for name in islice(value, 6)) + (", ..." if len(value) > 6 else "")
        return f"a group of keys ({first or 'empty'})"
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += part
        if len(text) > 60:
            text = text[:57] + "..."
            break
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return f"{text} ({names[type(value)]})"


def _alternatives(schema: Schema) -> list[Schema]:
    """Without null, and without the other spellings of a value: text beside numbers and lists, bare words."""
    given = [one for one in schema.get("anyOf", [schema]) if one.get("type", "null") != "null"]
    spelled = given[0]["type"] in ("integer", "number", "array")
    return [one for one in given if not (spelled and one["type"] == "string")]


def _whole(schema: Schema) -> str:
    least, most = schema["minimum"], schema["maximum"]
    return (
        f"a whole number, {least} or more" if most == LARGEST else f"a whole number, from {least} to {most}"
    )


def _options(schema: Schema) -> list[Any]:
    if schema["type"] == "boolean":
        return [True, False]
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))
