"""What one key of the settings is: how its value is read, worded, and written in the schema."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

# Helm's --set leaves `2e-4` a string, so a string that spells a number is read as that number.
NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
# No count of anything is larger, and what computes with one has 32 bits for it at least.
LARGEST = 2**31 - 1
# Bytes, on every file system of Linux.
LONGEST_NAME = 255
LONGEST_PATH = 4095
NUMBER_TEXT = {"type": "string", "pattern": f"^{NUMBER}$"}


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Args:
        name: the word for tables, such as `int`.
        expected: what an error asks for.
        read: gives the value as the program uses it; raises ValueError, with a hint or without a message.
        schema: the alternatives of the JSON schema (draft-07), null left out.
    """

    name: str
    expected: str
    read: Callable[[Any], Any]
    schema: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Key:
    """A key of a section.

    Args:
        kind: what the value may be.
        default: what the chart's values.yaml says. A key that was removed does not get it back.
        description: one sentence for the user.
        none: what an absent key means; without it, the key must be there.
        was: the path of an earlier name in `distributed`, which still works; see `renamed`.
        was_values: earlier words for some of its values, and the words for them now.
    """

    kind: Kind
    default: Any
    description: str
    none: str | None = None
    was: str | None = None
    was_values: Mapping[str, str] | None = None

    def read(self, value: Any) -> Any:
        """Return the value as the program uses it.

        Raises:
            ValueError: saying what was found and what was expected.
        """
        if self.none is not None and value in (None, ""):
            return None
        if value is None:
            raise ValueError(f"removed (null), expected {self.expected}")
        try:
            return self.kind.read(value)
        except ValueError as error:
            hint = f"; {error}" if str(error) else ""
            raise ValueError(f"found {shown(value)}, expected {self.expected}{hint}") from None

    @property
    def expected(self) -> str:
        return self.kind.expected if self.none is None else f"{self.kind.expected}, or null ({self.none})"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))


class Section(BaseModel):
    """A group of keys. Keys are camelCase in values files and snake_case here; an absent key is None."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_is_none(cls, tree: Any) -> Any:
        return {**dict.fromkeys(cls.entries()), **tree} if isinstance(tree, dict) else tree

    @classmethod
    def entries(cls) -> dict[str, Key | type[Section]]:
        """The keys and the sections in this one, by their name in values files."""
        entries: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            entries[to_camel(name)] = field.metadata[0] if field.metadata else field.annotation
        return entries


def key(
    kind: Kind,
    default: Any,
    description: str,
    none: str | None = None,
    was: str | None = None,
    was_values: Mapping[str, str] | None = None,
) -> Any:
    """A field of a section; see `Key`. It has no default for pydantic: an absent key is None."""
    declared: Any = Field()
    declared.metadata.append(Key(kind, default, description, none, was, was_values))
    return declared


def keys(section: type[Section], above: str = "") -> Iterator[tuple[str, Key]]:
    """The keys of a section and of the sections in it, by their dotted paths."""
    for name, entry in section.entries().items():
        if isinstance(entry, Key):
            yield above + name, entry
        else:
            yield from keys(entry, f"{above}{name}.")


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


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if isinstance(value, str) and not re.fullmatch(NUMBER, value):
        raise ValueError
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def whole(at_least: int, at_most: int = LARGEST, also: int | None = None) -> Kind:
    """A whole number in a range; `also` is one more value outside it. 8.0 and "1e+06" are whole."""
    limit = f"{at_least} or more" if at_most == LARGEST else f"from {at_least} to {at_most}"

    def read(value: Any) -> int:
        number = _number(value)
        if number != int(number):
            raise ValueError
        if at_most == LARGEST < number:
            raise ValueError(f"{LARGEST} at most")
        if number != also and not at_least <= number <= at_most:
            raise ValueError
        return int(number)

    bounds = {"minimum": at_least, "maximum": at_most}
    schema: tuple[dict[str, Any], ...] = ({"type": "integer", **bounds}, NUMBER_TEXT)
    words = f"a whole number, {limit}"
    if also is None:
        return Kind("int", words, read, schema)
    return Kind("int", f"{words}, or {also}", read, ({"enum": [also]}, *schema))


def number(
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Kind:
    """A number in a range, given by one or two of its bounds."""
    bounds = {"minimum": at_least, "exclusiveMinimum": above, "exclusiveMaximum": below, "maximum": at_most}
    words = {
        "minimum": "{:g} or more",
        "exclusiveMinimum": "above {:g}",
        "exclusiveMaximum": "below {:g}",
        "maximum": "{:g} at most",
    }
    given = {name: bound for name, bound in bounds.items() if bound is not None}

    def read(value: Any) -> float:
        number = _number(value)
        if (
            (at_least is not None and number < at_least)
            or (above is not None and number <= above)
            or (below is not None and number >= below)
            or (at_most is not None and number > at_most)
        ):
            raise ValueError
        return number

    limits = " and ".join(words[name].format(bound) for name, bound in given.items())
    return Kind("float", f"a number, {limits}", read, ({"type": "number", **given}, NUMBER_TEXT))


def steps_or_share() -> Kind:
    """A whole number of steps, or a share of all steps below 1."""
    steps, share = whole(1), number(at_least=0, below=1)

    def read(value: Any) -> Any:
        return share.read(value) if _number(value) < 1 else steps.read(value)

    schema = (*steps.schema, share.schema[0])
    return Kind("int or float", f"{steps.expected}, or a share of all steps from 0 to below 1", read, schema)


def flag() -> Kind:
    """true or false; never a string or a number."""

    def read(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        spelled = str(value).lower()
        if spelled in ("true", "false"):
            raise ValueError(f"write {spelled} without quotes; use --set, not --set-string")
        raise ValueError

    return Kind("bool", "true or false", read, ({"type": "boolean"},))


def text() -> Kind:
    """Any text that is not empty."""

    def read(value: Any) -> str:
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, bool | int | float):
            raise ValueError(f'write "{json.dumps(value)}" in quotes, or use --set-string')
        raise ValueError

    return Kind("string", "text", read, ({"type": "string", "pattern": r"\S"},))


def path() -> Kind:
    """A file or a folder, or a name of the Hugging Face Hub; as it is written, on every machine.

    A shell's `~` is refused: no shell reads it here, and in a pod it would be another folder.
    """
    any_text = text()

    def read(value: Any) -> str:
        written: str = any_text.read(value)
        if written.startswith("~"):
            meant = os.path.expanduser(written)
            instead = "the whole path" if meant == written else meant
            raise ValueError(
                f"no shell reads ~ here; write {instead}, or ./{written} for a file of that name"
            )
        encoded = os.fsencode(written)
        if (
            b"\0" in encoded
            or len(encoded) > LONGEST_PATH
            or max(map(len, encoded.split(b"/"))) > LONGEST_NAME
        ):
            raise ValueError("no file system takes that as a path")
        return written

    return replace(any_text, read=read)


def choice(*options: str | bool) -> Kind:
    """One of a few values."""
    # Without quotes YAML takes these words for booleans; whoever writes them means the words.
    words_of = ((False, "no"), (False, "off"), (True, "on"))
    unquoted = {value: word for value, word in words_of if word in options}

    def read(value: Any) -> str | bool:
        for option in options:
            if type(value) is type(option) and value == option:
                return option
        if isinstance(value, bool) and value in unquoted:
            return unquoted[value]
        raise ValueError

    words = [option if isinstance(option, str) else json.dumps(option) for option in options]
    kinds = "bool or string" if any(isinstance(option, bool) for option in options) else "string"
    allowed: dict[str, Any] = {"enum": [*options, *unquoted]}
    return Kind(kinds, f"one of {', '.join(words)}", read, (allowed,))


def names(*options: str) -> Kind:
    """Names with spaces between, or a list of names; of the options where there are any. Read as a tuple."""

    def read(value: Any) -> tuple[str, ...]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError
        found = tuple(dict.fromkeys(name for part in parts for name in part.split()))
        if not found or (options and not set(found) <= set(options)):
            raise ValueError
        return found

    if options:
        one = f"({'|'.join(options)})"
        string = {"type": "string", "pattern": rf"^\s*{one}(\s+{one})*\s*$"}
    else:
        string = {"type": "string", "pattern": r"\S"}
    of = f" of {', '.join(options)}" if options else ""
    schema = (string, {"type": "array", "minItems": 1, "items": string})
    return Kind("string", f"names{of}, with spaces between", read, schema)
