"""Reads YAML the way Helm's parser does (sigs.k8s.io/yaml 1.4 on go-yaml v2, then encoding/json).

The differences to PyYAML's own reading: `2e-4`, `1e+06` and `0o17` are numbers, `y` and `n` are booleans, a
time stays a string, keys become strings, and a merge key (`<<`) overrides what stands before it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from yaml import MappingNode, Node, ScalarNode, SequenceNode, YAMLError
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentEndEvent
from yaml.resolver import BaseResolver

MAX_DEPTH = 100
MAX_BYTES = 2**20  # about what Kubernetes keeps of a release's values
# go-yaml's: of so many values what share may come out of aliases. The smaller a document, the more.
FEW_VALUES, MANY_VALUES = 400_000, 4_000_000
MOST_OF_FEW, MOST_OF_MANY = 0.99, 0.10

TOO_DEEP = f"more than {MAX_DEPTH} levels inside each other"
_TAG = "tag:yaml.org,2002:"
_PLAIN = "plain"
_RESOLVED = {_TAG + "null": type(None), _TAG + "bool": bool, _TAG + "int": int, _TAG + "float": int | float}
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"([+-]?)(?:0x([0-9a-f]+)|0b([01]+)|0o?([0-7]+)|(0|[1-9][0-9]*))", re.IGNORECASE)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
LONGEST_INTEGER = 70  # 64 binary digits, and what stands around them
# After a leading dot Go allows an underscore between digits.
_DOT_FLOAT = re.compile(r"\.[0-9](_?[0-9])*([eE][-+]?[0-9](_?[0-9])*)?")


@dataclass(frozen=True)
class Document:
    """A values file as JSON would hold it, and what Helm passes over in silence.

    Args:
        values: the top-level mapping; empty for an empty file.
        remarks: one line each, such as a key that stands twice.
    """

    values: dict[str, Any]
    remarks: tuple[str, ...]


def read_yaml(text: bytes) -> Document:
    """Read the first document of a values file.

    Raises:
        ValueError: where Helm refuses the file: no YAML, not a mapping, NaN or infinite numbers, aliases that
            multiply; for the tags !!binary and !!timestamp, which settings have no use for; and for a file
            that is too large or too deep.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"found more than {MAX_BYTES:,} bytes, which is no values file")
    loader = _Loader(text)
    try:
        _check_depth(_Loader(text))
        root = loader.get_node() if loader.check_node() else None
    except YAMLError as error:
        raise ValueError(f"not YAML: {_one_line(error)}") from None
    except UnicodeError as error:
        raise ValueError(f"not YAML: {error}") from None
    reader = _Reader()
    values = None if root is None else reader.value(root)
    if values is not None and not isinstance(values, dict):
        raise ValueError("expected keys with values (`distributed:` and so on), found something else")
    if _has_more(loader):
        reader.remarks.append("only the first YAML document is read; what follows `---` has no effect")
    return Document(values or {}, tuple(reader.remarks))


def plain_scalar(text: str) -> Any:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] == ".":
        number = float(text.replace("_", "")) if _DOT_FLOAT.fullmatch(text) else math.inf
        return number if math.isfinite(number) else text
    if text[0] not in "+-0123456789":
        return text
    digits = text.replace("_", "")
    if found := len(digits) <= LONGEST_INTEGER and _INTEGER.fullmatch(digits):
        sign, *bases = found.groups()
        base, body = next((base, body) for base, body in zip((16, 2, 8, 10), bases, strict=True) if body)
        whole = int(sign + body, base)
        if -(2**63) <= whole < (2**63 if sign else 2**64):
            return json_number(whole)
    if _FLOAT.fullmatch(digits) and math.isfinite(number := float(digits)):
        return json_number(number)
    return text


def json_number(number: float) -> float:
    """What a float64 keeps of a number; a whole one is an int here. OverflowError where it keeps nothing."""
    number = float(number)
    return int(number) if number.is_integer() else number


def too_deep(tree: Any) -> bool:
    """Whether a tree that was read has more levels than a values file may have."""
    level = [tree]
    for _ in range(MAX_DEPTH + 1):
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [value for one in inner for value in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return True


class _Loader(CParser, BaseResolver):
    """libyaml's parser, of which go-yaml is a translation, with plain scalars left to `plain_scalar`."""

    def __init__(self, text: bytes) -> None:
        CParser.__init__(self, text)
        BaseResolver.__init__(self)

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _TAG + "str"
        return _TAG + ("seq" if kind is SequenceNode else "map")


class _Reader:
    """Turns nodes into values."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._open: list[Node] = []
        self._read: set[int] = set()
        self._aliases_open = 0
        self._values = self._aliased = 0

    def value(self, node: Node) -> Any:
        is_alias = id(node) in self._read  # the parser gives an alias the node of its anchor
        self._read.add(id(node))
        self._count()
        if not is_alias:
            return self._value(node)
        self._aliases_open += 1
        self._count()  # go-yaml counts the alias and what it stands for
        try:
            return self._value(node)
        finally:
            self._aliases_open -= 1

    def _count(self) -> None:
        self._values += 1
        self._aliased += self._aliases_open > 0
        many = min(max(self._values - FEW_VALUES, 0) / (MANY_VALUES - FEW_VALUES), 1)
        most = MOST_OF_FEW - many * (MOST_OF_FEW - MOST_OF_MANY)
        if self._aliased > 100 and self._values > 1000 and self._aliased > most * self._values:
            raise ValueError("document contains excessive aliasing: anchors that multiply")

    def _value(self, node: Node) -> Any:
        if any(node is other for other in self._open):
            raise ValueError(f"line {_line(node)}: an anchor's value contains itself")
        if len(self._open) > MAX_DEPTH:
            raise ValueError(f"line {_line(node)}: {TOO_DEEP}")
        self._open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node)
            if isinstance(node, SequenceNode):
                return [self.value(item) for item in node.value]
            return _scalar(node)
        finally:
            self._open.pop()

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own: set[str] = set()
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                found.update(self._merged(value_node))
                continue
            key = self._key(key_node)
            if key in own:
                self.remarks.append(f"line {_line(key_node)}: key {key} stands twice; the last one counts")
            own.add(key)
            found[key] = self.value(value_node)
        return found

    def _merged(self, node: Node) -> dict[str, Any]:
        parts = list(reversed(node.value)) if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, MappingNode):
                raise ValueError(f"line {_line(part)}: << takes a mapping or a list of mappings")
            merged.update(self.value(part))
        return merged

    def _key(self, node: Node) -> str:
        key = self.value(node)
        if isinstance(key, bool):
            return str(key).lower()
        if isinstance(key, str | int | float):
            return str(key)
        found = "null" if key is None else "a collection"
        raise ValueError(f"line {_line(node)}: found {found} as a key, expected text")


def _check_depth(loader: _Loader) -> None:
    """Asks for events one by one: the parser makes nodes by calling itself, and would run out of stack."""
    depth = 0
    while loader.check_event():
        event: Any = loader.get_event()
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {_line(event)}: {TOO_DEEP}")
        if isinstance(event, DocumentEndEvent):
            return


def _scalar(node: Node) -> Any:
    tag, text = node.tag, node.value
    if tag in (_TAG + "binary", _TAG + "timestamp"):
        raise ValueError(f"line {_line(node)}: the tag !!{tag.removeprefix(_TAG)} has no use here")
    if tag != _PLAIN and tag not in _RESOLVED:
        return text
    value = plain_scalar(text)
    if tag in _RESOLVED and not isinstance(value, _RESOLVED[tag]):
        raise ValueError(f"line {_line(node)}: cannot read `{text}` as !!{tag.removeprefix(_TAG)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"line {_line(node)}: `{text}` is not a number that JSON can hold")
    return value


def _is_merge(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value == "<<" and node.tag in (_PLAIN, _TAG + "merge")


def _has_more(loader: _Loader) -> bool:
    try:
        return bool(loader.check_node())
    except YAMLError:
        return True


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _one_line(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + str(getattr(error, "problem", None) or error).replace("\n", " ")
