"""The grammar of Helm's --set, --set-string and --set-json (Helm 3.17, pkg/strvals).

    a.b=1,c={x,y},d[0].e=text       a backslash takes the next character as it is: a\\.b=1\\,2

Each function changes a tree in place, as Helm does, and returns the paths that it set. An index sets an item
of the list that the tree has, or of a new list; a list counts as one path.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from llm_finetune.config.helm.yaml import LONGEST_INTEGER, MAX_DEPTH, TOO_DEEP, json_number, too_deep

Path = tuple[str, ...]

MAX_INDEX = 65536
MAX_NESTING = 30
MAX_ITEMS = 10 * MAX_INDEX  # of all the lists that one option makes longer
_END = ""


def set_values(tree: dict[str, Any], text: str) -> list[Path]:
    """Apply one --set: whole numbers, true, false and null are read as such.

    Raises:
        ValueError: where Helm refuses the text, or a path runs through something that is no group of keys.
    """
    return _Parser(text, typed).into(tree)


def set_strings(tree: dict[str, Any], text: str) -> list[Path]:
    """Apply one --set-string: every value is a string. Raises as `set_values`."""
    return _Parser(text, str).into(tree)


def set_json(tree: dict[str, Any], text: str) -> list[Path]:
    """Apply one --set-json: every value is JSON; an empty one is null. Raises as `set_values`."""
    return _JsonParser(text, str).into(tree)


def typed(text: str) -> Any:
    """The value that --set makes of a text. What starts with 0, and every fraction, stays a string."""
    words = {"true": True, "false": False, "null": None, "0": 0}
    if text.lower() in words:
        return words[text.lower()]
    is_whole = len(text) <= LONGEST_INTEGER and re.fullmatch(r"[+-]?[0-9]+", text) and text[0] != "0"
    if is_whole and -(2**63) <= int(text) < 2**63:
        return int(text)
    return text


class _Parser:
    """Reads `key=value,key=value`. A method's last result says whether Helm would read on."""

    def __init__(self, text: str, value: Callable[[str], Any]) -> None:
        self._text = text
        self._at = 0
        self._value = value
        self._paths: list[Path] = []
        self._room = MAX_ITEMS
        self._depth = 0

    def into(self, tree: dict[str, Any]) -> list[Path]:
        while self._key(tree, (), 0):
            pass
        return self._paths

    def _key(self, tree: dict[str, Any], above: Path | None, depth: int) -> bool:
        """Read one key and its value into the tree. `above` is its path; None inside a list."""
        name, stop = self._until("=[,.")
        if stop == _END and not name:
            return False
        if stop in (_END, ","):
            raise ValueError(f"key {name!r} has no value")
        path = None if above is None else (*above, name)
        value: Any
        if stop == "=":
            value, more = self._read_value()
        elif stop == "[":
            index = self._index()
            value, more = self._item(_existing(tree, name, list), index, depth)
        else:
            if depth == MAX_NESTING:
                raise ValueError(f"more than {MAX_NESTING} keys inside each other")
            value = _existing(tree, name, dict)
            more = self._key(value, path, depth + 1)
            if not value:
                if more:
                    raise ValueError(f"key {name!r} has no value")
                return False
            path = None  # the inner key is recorded
        if name:
            tree[name] = value
            if path:
                self._paths.append(path)
        return more

    def _item(self, items: list[Any], index: int, depth: int) -> tuple[list[Any], bool]:
        """Read what follows `[index]`. The text's end in it leaves the list as it was, as in Helm."""
        # Helm follows indexes as deep as they go.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        name, stop = self._until("[.=")
        if name:
            raise ValueError(f"unexpected {name!r} after [{index}]")
        if stop == _END:
            return items, False
        old = items[index] if index < len(items) else None
        value: Any
        if stop == "=":
            value, _ = self._read_value()
            more = True
        elif stop == "[":
            if not isinstance(old, list | None):
                raise ValueError(f"[{index}] is not a list")
            value, more = self._item(old or [], self._index(), depth)
        else:
            value = old if isinstance(old, dict) else {}
            if index < len(items):
                items[index] = value
            more = self._key(value, None, depth)
        self._depth -= 1
        return (self._with_item(items, index, value), True) if more else (items, False)

    def _with_item(self, items: list[Any], index: int, value: Any) -> list[Any]:
        self._room -= max(index + 1 - len(items), 0)
        if self._room < 0:
            raise ValueError(f"makes lists of more than {MAX_ITEMS:,} items")
        longer = items + [None] * (index + 1 - len(items))
        longer[index] = value
        return longer

    def _read_value(self) -> tuple[Any, bool]:
        if self._at == len(self._text):
            return "", False
        if self._text[self._at] != "{":
            return self._value(self._until(",")[0]), True
        self._at += 1
        items = []
        stop = ","
        while stop == ",":
            item, stop = self._until(",}")
            items.append(self._value(item))
        if stop == _END:
            raise ValueError("a list must end with '}'")
        if self._text.startswith(",", self._at):
            self._at += 1
        return items, True

    def _index(self) -> int:
        digits, stop = self._until("]")
        if stop == _END or not re.fullmatch(r"[+-]?[0-9]+", digits):
            raise ValueError(f"expected a number and ] after [, found {digits!r}")
        index = int(digits)
        if not 0 <= index <= MAX_INDEX:
            raise ValueError(f"index {index}: expected 0 to {MAX_INDEX}")
        return index

    def _until(self, stops: str) -> tuple[str, str]:
        """The text up to the next stop, and the stop; a backslash takes the next character as it is."""
        found = ""
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char in stops:
                return found, char
            if char == "\\":
                char = self._text[self._at : self._at + 1]
                self._at += 1
            found += char
        return found, _END


def _json_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is not a number that JSON can hold")
    return json_number(number)


_DECODER = json.JSONDecoder(parse_int=_json_float, parse_float=_json_float, parse_constant=_json_float)


class _JsonParser(_Parser):
    def _read_value(self) -> tuple[Any, bool]:
        if self._skip_blanks():
            return None, True
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
        except RecursionError:
            raise ValueError(TOO_DEEP) from None
        if too_deep(value):
            raise ValueError(TOO_DEEP)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        if isinstance(value, int | float) and self._text[self._at : self._at + 1] in (".", "e", "E"):
            raise ValueError("a number breaks off")
        self._skip_blanks()
        return value, True

    def _skip_blanks(self) -> bool:
        """Skip blanks and the comma after them; whether that was all before the next key or the end."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char != "," and not char.isspace():
                return False
            self._at += 1
            if char == ",":
                return True
        return True


def _existing(tree: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """What the tree has under the name, which must be of the kind; a new one where it has nothing."""
    found = tree.get(name, kind())
    if not isinstance(found, kind):
        what = "a list" if kind is list else "a group of keys"
        raise ValueError(f"{name} is not {what} in the files and options before")
    return found
