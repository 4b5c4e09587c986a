"""The output folder of a run: whose it is, what is in it already, and what gives way when."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_finetune import fingerprint
from llm_finetune.checkpoints import folders
from llm_finetune.errors import OutputError
from llm_finetune.fingerprint import Deciding
from llm_finetune.report import results

PREVIOUS = "previous"
# What a run leaves; nothing else in the folder is ever touched.
RUN_PATTERNS = (
    "checkpoint-*",
    "broken-checkpoint-*",
    "adapter_*",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "README.md",
    "*_results.json",
    "train_history.json",
    "prompt.json",
    "run.json",
    "runs",
)


@dataclass(frozen=True)
class RunFolder:
    """An output folder as this run finds it.

    Attributes:
        path: the folder; it need not be there yet.
        continues: this very training began here already.
        done: the stages whose results are there, for the same inputs.
        checkpoint: the name of its newest whole checkpoint, to go on from.
        step_rows: sequences of a step as the run began; 0: it did not begin yet.
    """

    path: Path
    continues: bool = False
    done: tuple[str, ...] = ()
    checkpoint: str | None = None
    step_rows: int = 0

    def begin(self, content: dict[str, Any]) -> None:
        """Makes the folder this run's own; what another run left is set aside.

        Args:
            content: of run.json; under "deciding" all that decides the training's result.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        stages: dict[str, Deciding] = {}
        if self.continues:
            stages = (results.read_json(self.path / results.RUN) or {}).get("stages", {})
        else:
            _set_aside(self.path)
        results.write_json(self.path / results.RUN, {**content, "stages": stages})

    def finish(self, stage: str, deciding: Deciding) -> None:
        """Says that the stage's results are there; with the training's, an earlier run's are let go."""
        content = results.read_json(self.path / results.RUN) or {}
        content["stages"] = {**content["stages"], stage: deciding}
        results.write_json(self.path / results.RUN, content)
        if stage == "train":
            shutil.rmtree(self.path / PREVIOUS, ignore_errors=True)
            folders.forget_broken(self.path)


def look_into(path: Path, deciding: dict[str, Deciding], *, overwrite: bool, fresh: bool) -> RunFolder:
    """What the folder means for this run; nothing is changed yet but its own broken checkpoints set aside.

    Args:
        deciding: for each stage all that decides its result.
        overwrite: an earlier, different run gives way, once this one is whole.
        fresh: so does this same run.

    Raises:
        OutputError: the folder cannot be written, or holds another run and may not be overwritten.
    """
    _check_writable(path)
    if fresh:
        return RunFolder(path)
    old = results.read_json(path / results.RUN) or {}
    if old.get("deciding") == deciding["train"]:
        stages = old.get("stages", {})
        done = tuple(stage for stage, inputs in deciding.items() if stages.get(stage) == inputs)
        checkpoint = None if "train" in done else folders.newest_whole(path)
        return RunFolder(path, True, done, checkpoint, old.get("step_rows", 0))
    left = _left_by_a_run(path)
    if left and not overwrite:
        found = left[0].name
        if old:
            difference = fingerprint.first_difference(old.get("deciding", {}), deciding["train"])
            found = f"another run: {difference}"
        raise OutputError(
            f"distributed.train.outputDir: {path} holds {found}; "
            "set distributed.train.overwriteOutputDir to true, or name another folder"
        )
    return RunFolder(path)


def _check_writable(path: Path) -> None:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        # Permissions alone do not tell: the file system may be read-only or full.
        with tempfile.NamedTemporaryFile(dir=there, prefix=".writable-"):
            pass
    except OSError as error:
        raise OutputError(
            f"distributed.train.outputDir: {path} cannot be written ({error.strerror}); "
            "name a folder that this user may write"
        ) from error


def _left_by_a_run(path: Path) -> list[Path]:
    return sorted({file for pattern in RUN_PATTERNS for file in path.glob(pattern)})


def _set_aside(path: Path) -> None:
    """Keeps what an earlier run left until this one is whole."""
    left, previous = _left_by_a_run(path), path / PREVIOUS
    old = results.read_json(path / results.RUN) or {}
    if previous.is_dir() and "train" not in old.get("stages", {}):
        # A run that never finished is worth less than the whole one that waits there already.
        for file in left:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    elif left:
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir()
        for file in left:
            os.replace(file, previous / file.name)
