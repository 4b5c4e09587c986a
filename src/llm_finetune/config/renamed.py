"""Keys and values under the names of an earlier release: for one release they work, with a warning.

A key says beside itself what it was (`was`, `was_values`); everything else follows from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llm_finetune.config.fields import Key, Section, keys

Path = tuple[str, ...]
UNTIL = "works until the next release"


@dataclass
class Current:
    """A tree of values under the names of this release.

    Attributes:
        moved: the paths that were given under an earlier name, and that name.
        warnings: one line for each earlier name and value.
        problems: one for each earlier name that was given beside the name of today.
    """

    tree: Any
    moved: dict[Path, Path] = field(default_factory=dict)
    warnings: list[tuple[Path, str]] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)


def current(
    section: type[Section], tree: Any, root: str, is_given: Callable[[Path, Key, Any], bool] | None = None
) -> Current:
    """Rename what a tree has under earlier names.

    Args:
        root: the section's own name, for the warnings.
        is_given: whether somebody set this path, or the chart's default stands there. By default whatever
            differs from the key's default is set: Helm's merged values do not tell who set what.
    """
    is_given = is_given or (lambda path, key, value: value != key.default)
    found = Current(tree)
    for dotted, key in keys(section):
        new = tuple(dotted.split("."))
        if key.was is not None:
            _rename(found, tuple(key.was.split(".")), new, key, root, is_given)
        there, value = _look_up(found.tree, new)
        if there and key.was_values and isinstance(value, str) and value in key.was_values:
            word = key.was_values[value]
            found.tree = _with(found.tree, new, word)
            given = found.moved.get(new, new)
            line = f'{".".join((root, *given))}: "{value}" is now "{word}"; the old value {UNTIL}'
            found.warnings.append((given, line))
    return found


def current_inputs(section: type[Section], root: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same for dotted paths and their values, as an earlier release stored them."""
    renamed = dict(inputs)
    for dotted, key in keys(section):
        new, old = f"{root}.{dotted}", f"{root}.{key.was}"
        if key.was is not None and old in renamed:
            renamed.setdefault(new, renamed.pop(old))
        if key.was_values and isinstance(renamed.get(new), str):
            renamed[new] = key.was_values.get(renamed[new], renamed[new])
    return renamed


def _rename(
    found: Current, old: Path, new: Path, key: Key, root: str, is_given: Callable[[Path, Key, Any], bool]
) -> None:
    there, value = _look_up(found.tree, old)
    if not there:
        return
    is_new_there, new_value = _look_up(found.tree, new)
    found.tree = _without(found.tree, old)
    line = f"{'.'.join((root, *old))} is now {'.'.join((root, *new))}; the old name {UNTIL}"
    found.warnings.append((old, line))
    if is_new_there and is_given(new, key, new_value):
        if is_given(old, key, value):
            found.problems.append(
                (old, f"is now {'.'.join((root, *new))}, and both are set; write only that")
            )
        return
    found.moved[new] = old
    found.tree = _with(found.tree, new, value)


def _look_up(tree: Any, path: Path) -> tuple[bool, Any]:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False, None
        tree = tree[name]
    return True, tree


def _with(tree: Any, path: Path, value: Any) -> Any:
    """A copy with the value at the path; what is no group of keys on the way stays, for others to refuse."""
    if not path:
        return value
    if not isinstance(tree, dict):
        return tree
    name, *rest = path
    return {**tree, name: _with(tree.get(name, {}), tuple(rest), value)}


def _without(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """A copy without what stands at the path, and without a group of keys that is empty then."""
    name, *rest = path
    inner = _without(tree[name], tuple(rest)) if rest else {}
    return {other: value for other, value in tree.items() if other != name} | ({name: inner} if inner else {})
