"""Checks a tree of values against a section's keys and words every problem as one line."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from pydantic import ValidationError

from llm_finetune.config.fields import Key, Section
from llm_finetune.config.wording import shown
from llm_finetune.errors import SettingsError

Path = tuple[str, ...]
SectionT = TypeVar("SectionT", bound=Section)

# Where a section stands in values files.
ROOT = "distributed"
MOST_PROBLEMS = 100  # each is compared with all the keys there are


@dataclass(frozen=True)
class Problem:
    """What is wrong, with the keys that take part in it; the line names the first."""

    text: str
    keys: tuple[Path, ...]


def read(
    section: type[SectionT],
    tree: Any,
    origin: Callable[[Path], str],
    rules: Callable[[SectionT], Iterator[Problem]],
) -> SectionT:
    """Return the section that the tree says.

    Args:
        section: the model to read into.
        tree: the merged values of the section.
        origin: tells which file or option set a path (the section's own name in front).
        rules: tells what is wrong between keys.

    Raises:
        SettingsError: one line per problem, all problems at once.
    """
    problems = list(_key_problems(section, tree))
    try:
        settings = section.model_validate(_repaired(section, tree, problems))
    except ValidationError as error:  # the whole tree is no group of keys
        raise _refusal(problems, origin) from error
    # A rule over a key that is wrong by itself would only say so twice.
    wrong = {key for problem in problems for key in problem.keys}
    problems += [p for p in rules(settings) if not any(_under(key, wrong) for key in p.keys)]
    if problems:
        raise _refusal(problems, origin)
    return settings


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that looks most like this one, if any does."""
    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", ""), folded, n=1)
    return folded[found[0]] if found else None


def _key_problems(section: type[Section], tree: Any) -> Iterator[Problem]:
    try:
        section.model_validate(tree)
    except ValidationError as caught:
        for error in islice(caught.errors(include_url=False), MOST_PROBLEMS):
            path = tuple(str(part) for part in error["loc"])
            if error["type"] == "extra_forbidden":
                yield Problem(_unknown(section, path), (path,))
            elif error["type"] == "value_error":
                yield Problem(str(error["ctx"]["error"]), (path,))
            else:
                found = shown(error["input"]) if error["input"] is not None else "nothing (null)"
                yield Problem(f"found {found}, expected a group of keys", (path,))


def _unknown(section: type[Section], path: Path) -> str:
    *parents, name = path
    near = nearest(name, list(_inner(section, parents).entries()))
    if near is None:
        near = next((".".join((ROOT, *other)) for other in _leaves(section) if other[-1] == name), None)
    return f"unknown key; did you mean {near}?" if near else "unknown key"


def _inner(section: type[Section], names: list[str]) -> type[Section]:
    for name in names:
        entry = section.entries()[name]
        assert not isinstance(entry, Key)
        section = entry
    return section


def _leaves(section: type[Section]) -> Iterator[Path]:
    for name, entry in section.entries().items():
        if isinstance(entry, Key):
            yield (name,)
        else:
            yield from ((name, *rest) for rest in _leaves(entry))


def _repaired(section: type[Section], tree: Any, problems: list[Problem]) -> Any:
    """The tree with the chart's defaults where it is wrong, so that rules over other keys can be asked."""
    tree = copy.deepcopy(tree)
    for problem in problems:
        (path,) = problem.keys
        if not path:
            return tree
        *parents, name = path
        here = tree
        for parent in parents:
            here = here[parent]
        known = _inner(section, parents).entries()
        if name in known:
            here[name] = _default(known[name])
        else:
            del here[name]
    return tree


def _default(entry: Key | type[Section]) -> Any:
    if isinstance(entry, Key):
        return entry.default
    return {name: _default(inner) for name, inner in entry.entries().items()}


def _under(key: Path, wrong: set[Path]) -> bool:
    return any(key[:length] in wrong for length in range(len(key) + 1))


def _refusal(problems: list[Problem], origin: Callable[[Path], str]) -> SettingsError:
    paths = [(ROOT, *problem.keys[0]) for problem in problems]
    lines = zip(paths, problems, strict=True)
    return SettingsError([f"{origin(path)}: {'.'.join(path)}: {problem.text}" for path, problem in lines])
