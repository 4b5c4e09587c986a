"""The types of settings: pydantic's own, which also take what Helm and YAML make of a value."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

# Helm's --set leaves `2e-4` a string, so a string that spells a number is read as that number.
NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
# No count of anything is larger, and what computes with one has 32 bits for it at least.
LARGEST = 2**31 - 1
# Longer than anybody waits, and short enough for a timeout of the system's in milliseconds.
WEEK_MINUTES = 7 * 24 * 60
DAY_SECONDS = 24 * 3600
# Bytes, on every file system of Linux.
LONGEST_NAME = 255
LONGEST_PATH = 4095


@dataclass(frozen=True)
class AlsoReads:
    """Other spellings that a value may come in: how they are read, and what the JSON schema says of them."""

    read: Callable[[Any], Any]
    spellings: Callable[[dict[str, Any]], list[dict[str, Any]]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": self.spellings(handler(schema))}


def _number(value: Any) -> int | float:
    """8.0, "8" and "8e+00" are the whole number 8."""
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
    return int(number) if number == int(number) else number


def _unquoted(value: Any) -> Any:
    spelled = str(value).lower()
    if not isinstance(value, bool) and spelled in ("true", "false"):
        raise ValueError(f"write {spelled} without quotes; use --set, not --set-string")
    return value


def _quoted(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        raise ValueError(f'write "{json.dumps(value)}" in quotes, or use --set-string')
    return value


def _path(written: str) -> str:
    """As it is written, on every machine. A shell's `~` is refused: in a pod it would be another folder."""
    if written.startswith("~"):
        meant = os.path.expanduser(written)
        instead = "the whole path" if meant == written else meant
        raise ValueError(f"no shell reads ~ here; write {instead}, or ./{written} for a file of that name")
    encoded = os.fsencode(written)
    if b"\0" in encoded or len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        raise ValueError("no file system takes that as a path")
    return written


def _names(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError
    return tuple(dict.fromkeys(name for part in parts for name in part.split()))


def _names_in_text(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Names with spaces between, of the few that there are; so may be each text of a list."""
    few = schema["items"].get("enum")
    one = f"({'|'.join(few)})" if few else r"\S+"
    text = {"type": "string", "pattern": rf"^\s*{one}(\s+{one})*\s*$"}
    items = {"anyOf": [schema["items"], text]} if few else text
    return [{**schema, "items": items}, text]


def _words(unquoted: dict[bool, str]) -> AlsoReads:
    """Without quotes YAML takes these words for booleans; but the user means the words."""

    def read(value: Any) -> Any:
        return unquoted.get(value, value) if isinstance(value, bool) else value

    return AlsoReads(read, lambda schema: [schema, {"enum": list(unquoted)}])


_NUMBER_TEXT = {"type": "string", "pattern": f"^{NUMBER}$"}
_Number = AlsoReads(_number, lambda schema: [*schema.get("anyOf", [schema]), _NUMBER_TEXT])
_Strings = AlsoReads(_names, _names_in_text)
NameT = TypeVar("NameT", bound=str)

Flag = Annotated[bool, BeforeValidator(_unquoted)]
Text = Annotated[str, Field(pattern=r"\S"), BeforeValidator(_quoted)]
AnyPath = Annotated[Text, AfterValidator(_path)]
NameList = Annotated[tuple[NameT, ...], Field(min_length=1), _Strings]
Switch = Annotated[Literal["auto", "on", "off"], _words({False: "off", True: "on"})]
Strategy = Annotated[Literal["no", "steps", "epoch"], _words({False: "no"})]

Count = Annotated[int, Field(ge=1, le=LARGEST), _Number]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST), _Number]
CountOrAll = Annotated[Annotated[int, Field(ge=1, le=LARGEST)] | Literal[-1], _Number]
SequenceLength = Annotated[int, Field(ge=8, le=LARGEST), _Number]
PerBatch = Annotated[int, Field(ge=1, le=65536), _Number]
PerWorker = Annotated[int, Field(ge=1, le=1024), _Number]
QuantizationBits = Annotated[int, Field(ge=1, le=8), _Number]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), _Number]

Positive = Annotated[float, Field(gt=0), _Number]
NonNegative = Annotated[float, Field(ge=0), _Number]
Fraction = Annotated[float, Field(ge=0, lt=1), _Number]
WeekOfMinutes = Annotated[float, Field(gt=0, le=WEEK_MINUTES), _Number]
DayOfSeconds = Annotated[float, Field(gt=0, le=DAY_SECONDS), _Number]
StepsOrFraction = Annotated[
    Annotated[int, Field(ge=1, le=LARGEST)] | Annotated[float, Field(ge=0, lt=1)], _Number
]
