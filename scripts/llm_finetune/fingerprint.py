"""What decides the result of each stage, by key: where all is the same, nothing need be done again."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

Deciding = dict[str, Any]

# Keys of train that may change in the middle of a run: where things go, how they are watched, who works.
WITHOUT_EFFECT = {
    "outputDir",
    "overwriteOutputDir",
    "loggingSteps",
    "saveStrategy",
    "saveSteps",
    "saveMinutes",
    "saveTotalLimit",
    "keepEffectiveBatch",
    "gradientCheckpointing",
    "reportTo",
    "ddpBackend",
    "ddpFindUnusedParameters",
    "useFastTokenizer",
}
# Keys of eval that decide which weights the training ends with.
OF_TRAINING = {"strategy", "steps", "loadBestModel", "earlyStoppingPatience"}


@cache  # reading gigabytes takes seconds
def of_model(folder: Path) -> str:
    """Digest of the model's files: configuration, tokenizer and weights, by content."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".safetensors", ".jinja", ".model", ".py"}:
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def of_stages(values: dict[str, Any], model: str, prepared: str) -> dict[str, Deciding]:
    """For each stage all that decides its result; a stage after another depends on that one's too.

    Args:
        values: the settings as a tree of values keys.
        model: what `of_model` says of the base model.
        prepared: name of the prepared data set, which its content decides.
    """
    train = {
        "distributed.modelNameOrPath (its files)": model,
        "distributed.train (its records)": prepared,
        **_keys(values, "train", lambda key: key not in WITHOUT_EFFECT),
        **_keys(values, "eval", lambda key: key in OF_TRAINING),
    }
    evaluate = {**train, **_keys(values, "eval")}
    quantize = {**train, **_keys(values, "quantize")}
    return {
        "train": train,
        "evaluate": evaluate,
        "quantize": quantize,
        "benchmark": {
            **quantize,
            "distributed.doQuantize": values["doQuantize"],
            **_keys(values, "benchmark"),
        },
    }


def first_difference(old: Deciding, new: Deciding) -> str:
    """The first key whose value differs, with both values."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
    return "nothing"


def _keys(values: dict[str, Any], section: str, counts: Any = lambda key: True) -> Deciding:
    return {f"distributed.{section}.{key}": value for key, value in values[section].items() if counts(key)}
