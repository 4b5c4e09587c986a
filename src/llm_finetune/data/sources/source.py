"""Where raw rows come from, as its user names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_finetune.errors import DataError


@dataclass(frozen=True)
class Source:
    """Either `files`, a file or a directory of them, or `dataset`, a name on the Hub.

    Attributes:
        files: a file, or a directory: all files under it, sorted, without hidden ones.
        dataset: a data set on the Hub (or a folder that `datasets.load_dataset` understands).
        config: its configuration; None is the only one or the default.
        split: the split that holds the records; None is `train`.
        revision: branch, tag or commit; None is the newest.
    """

    files: Path | None = None
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if (self.files is None) == (self.dataset is None):
            raise DataError("A source is either files or a Hub data set: name exactly one of them.")
