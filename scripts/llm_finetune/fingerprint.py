"""What decides a run's result, by key: where all is the same it is the same run, to be gone on with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

# Keys that may change in the middle of a run: where things go, how they are watched, who does the work.
WITHOUT_EFFECT = {
    "": {
        "script",
        "workers",
        "processesPerWorker",
        "logLevel",
        "waitForPeersMinutes",
        "waitForPreparationMinutes",
    },
    "train": {
        "outputDir",
        "overwriteOutputDir",
        "loggingSteps",
        "saveStrategy",
        "saveSteps",
        "saveTotalLimit",
        "reportTo",
        "ddpBackend",
        "ddpFindUnusedParameters",
        "useFastTokenizer",
    },
}


@cache  # reading gigabytes takes seconds
def of_model(folder: Path) -> str:
    """Digest of the model's files: configuration, tokenizer and weights, by content."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".safetensors", ".jinja", ".model", ".py"}:
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def of_run(values: dict[str, Any], model: str, prepared: str | None) -> dict[str, Any]:
    """All that decides the result, by key: to be compared, and to name the first key that differs.

    Args:
        values: the settings as a tree of values keys.
        model: what `of_model` says of the base model.
        prepared: name of the prepared data set, which its content decides.
    """
    deciding = {
        **_leaves(values),
        "distributed.modelNameOrPath (its files)": model,
        "distributed.train.dataFile or datasetName (its records)": prepared,
    }
    return dict(sorted(deciding.items()))


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first key whose value differs, with both values."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
    return "nothing"


def _leaves(values: dict[str, Any]) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for section, content in values.items():
        keys = content if isinstance(content, dict) else {section: content}
        room = section if isinstance(content, dict) else ""
        for key, value in keys.items():
            if key not in WITHOUT_EFFECT.get(room, ()):
                leaves[".".join(filter(None, ("distributed", room, key)))] = value
    return leaves
