"""What decides the result of each stage, by key: where all is the same, the stage is not repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llm_finetune.config import Settings, renamed
from llm_finetune.config.fields import Key, Section
from llm_finetune.config.validation import ROOT

StageInputs = dict[str, Any]

# Keys of train that may change in the middle of a run: where things go, how they are watched, who works.
RESUME_IGNORED_KEYS = {
    "dataFile",  # its records count, wherever they lie
    "outputDir",
    "overwriteOutputDir",
    "loggingSteps",
    "saveStrategy",
    "saveSteps",
    "saveIntervalMinutes",
    "saveTotalLimit",
    "requireConstantBatchSize",
    "gradientCheckpointing",
    "reportTo",
    "ddpBackend",
    "ddpFindUnusedParameters",
    "useFastTokenizer",
    "memoryAllocator",
}
# Keys of eval that decide which weights the training ends with.
OF_TRAINING = {"strategy", "steps", "loadBestModel", "earlyStoppingPatience"}


# What a run writes beside a model, which is not part of the model.
OF_A_RUN = {
    "run.json",
    "train_history.json",
    "base_model_evaluation.json",
    "prompt_config.json",
    "prompt.json",  # of earlier versions
}


@cache  # reading gigabytes takes seconds
def of_model(folder: Path) -> str:
    """Digest of the model's files: configuration, tokenizer and weights, by content."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name in OF_A_RUN or file.name.endswith("_results.json"):
            continue
        if file.is_file() and file.suffix in {".json", ".safetensors", ".jinja", ".model", ".py"}:
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Sources:
    """What stages work on; a stage after another depends on that one's sources too.

    Attributes:
        values: the settings as a tree of values keys.
        model: what `of_model` says of the base model.
        records, validation: digests of what is trained on and of what is evaluated on; empty: nothing.
    """

    values: dict[str, Any]
    model: str
    records: str
    validation: str

    def _base(self) -> StageInputs:
        """The base model and what it is, or would be, trained on."""
        return {
            "distributed.modelNameOrPath (its files)": self.model,
            "distributed.train (its records)": self.records,
        }

    def validation_records(self) -> StageInputs:
        """What is evaluated on."""
        return {"distributed.eval (its records)": self.validation}

    def tuned_model(self) -> StageInputs:
        """All that decides the model that comes out of the training."""
        return {
            **self._base(),
            **self.section("train", lambda key: key not in RESUME_IGNORED_KEYS),
            **self.section("eval", lambda key: key in OF_TRAINING),
            **(self.validation_records() if self.values["eval"]["strategy"] != "no" else {}),
        }

    def model_in(self, section: str, key: str) -> StageInputs:
        """The tuned model; in a job that does not train, what stands in the folder of that key."""
        if self.values["doTrain"]:
            return self.tuned_model()
        return {**self._base(), **self.files(section, key)}

    def section(self, name: str, counts: Callable[[str], bool] = lambda key: True) -> StageInputs:
        """The keys of a section that count, and of the sections in it."""
        return _keys(self.values[name], f"distributed.{name}", counts)

    def files(self, section: str, key: str) -> StageInputs:
        """The model in a folder that a key names, by its content; nothing where there is no such folder."""
        folder = Path(self.values[section][key] or "")
        is_there = bool(self.values[section][key]) and folder.is_dir()
        return {f"distributed.{section}.{key} (its files)": of_model(folder) if is_there else None}


def is_same(old: StageInputs, new: StageInputs) -> bool:
    """Whether what was made from the old inputs is what the new ones make."""
    return _difference(_under_current_names(old), new) is None


def first_difference(old: StageInputs, new: StageInputs) -> str:
    """The first key whose value differs, with both values; where none does, whose files or records do."""
    old = _under_current_names(old)
    key = _difference(old, new)
    if key is None:
        return "nothing"
    if _is_digest(key):
        return f"{key} changed"
    return f"{key} was {_of(old, key)!r} and is {new[key]!r}"


def _under_current_names(old: StageInputs) -> StageInputs:
    """Inputs that an earlier version may have written, whose keys had other names."""
    return renamed.current_inputs(Settings, ROOT, old)


def _difference(old: StageInputs, new: StageInputs) -> str | None:
    """An earlier version may have written the old inputs. What it did not know yet had its default's meaning;
    what counted then and no longer does decides nothing now."""
    digests = {key for key in old if _is_digest(key)}
    keys = sorted(new.keys() | digests, key=lambda key: (_is_digest(key), key))
    return next((key for key in keys if key not in new or _of(old, key) != new[key]), None)


def _of(inputs: StageInputs, key: str) -> Any:
    return inputs[key] if key in inputs else _default(key)


def _default(key: str) -> Any:
    """The default of a key of the settings; None for anything else."""
    entry: Key | type[Section] | None = Settings
    for name in key.split(".")[1:]:
        entry = None if entry is None or isinstance(entry, Key) else entry.entries().get(name)
    value = entry.read(entry.default) if isinstance(entry, Key) else None
    return list(value) if isinstance(value, tuple) else value


def _is_digest(key: str) -> bool:
    return key.endswith(")")


def _keys(values: dict[str, Any], name: str, counts: Callable[[str], bool]) -> StageInputs:
    found: StageInputs = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _keys(value, f"{name}.{key}", counts)
        elif counts(key):
            found[f"{name}.{key}"] = value
    return found
