"""The files below a data folder, links among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_finetune.errors import DataError
from llm_finetune.storage.symlinks import homes


def visible_files(root: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones and what is in hidden folders.

    A link counts where it leads to another place of the same folder, as in Kubernetes' volumes (`..data`), or
    from a snapshot of the Hub's cache to its blobs. One that leads out would train on what was not named.

    Raises:
        DataError: a link leads out of the folder, nowhere, or back to a folder that holds it.
    """
    problems: list[str] = []
    found = sorted(_files(root, homes(root), problems, ()))
    if problems:
        raise DataError(problems)
    return found


def _files(folder: Path, homes: list[Path], problems: list[str], within: tuple[Path, ...]) -> Iterator[Path]:
    within = (*within, folder.resolve())
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        problems.append(f"{folder}: cannot be read ({error.strerror})")
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_symlink() and (problem := _problem(path, homes, within)):
            problems.append(f"{path}: {problem}")
        elif path.is_dir():
            if not (path.is_symlink() and _is_visible(path.resolve(), homes[0])):
                yield from _files(path, homes, problems, within)
        elif path.is_file():
            yield path


def _is_visible(folder: Path, root: Path) -> bool:
    """Whether what is in it is found there anyway."""
    return folder.is_relative_to(root) and not any(
        name.startswith(".") for name in folder.relative_to(root).parts
    )


def _problem(link: Path, homes: list[Path], within: tuple[Path, ...]) -> str:
    try:
        target = link.resolve(strict=True)
    except FileNotFoundError:
        return "a link that leads nowhere; take it away, or copy the file"
    except (OSError, RuntimeError):  # the latter for links that lead to one another, before Python 3.13
        return "a link that leads to itself; take it away"
    if target in within:
        return "a link to a folder that holds it; take it away"
    if not any(target.is_relative_to(home) for home in homes):
        return f"a link out of the data folder, to {target}; copy what it leads to, or name that by dataFile"
    return ""
