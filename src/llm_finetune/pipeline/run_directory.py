"""The output folder of a run: whose it is, what is in it already, and what gives way when."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any

from llm_finetune.checkpoints import directories
from llm_finetune.errors import OutputError
from llm_finetune.models import saving
from llm_finetune.models.saving import is_saved
from llm_finetune.pipeline import fingerprint
from llm_finetune.pipeline.fingerprint import StageInputs
from llm_finetune.runtime import heartbeat
from llm_finetune.storage import atomic, results
from llm_finetune.storage.errors import writing
from llm_finetune.storage.result_schemas import SHAPES, read_checked, read_result

log = logging.getLogger(__name__)

PREVIOUS = "previous"
GOING = ".previous"  # while it is being filled
KEPT = "not-of-a-run"
CURVES = "runs"  # as TensorBoard has them
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
    "report.html",
    "run.json",
    CURVES,
)


@dataclass(frozen=True)
class StageOutput:
    """What a stage leaves, and what decides it.

    Attributes:
        name: of the stage.
        files: what shows that it was done; after the first, what need not be there.
        model: the folder of the model that it leaves; None: it leaves none.
        is_repeatable: a broken file is reason enough to do the stage again; else it is an error.
    """

    name: str
    inputs: StageInputs
    files: tuple[str, ...]
    model: Path | None
    is_repeatable: bool


@dataclass(frozen=True)
class RunDirectory:
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

    @classmethod
    def from_json(cls, path: Path, found: str) -> RunDirectory:
        """What rank 0 saw, on another rank."""
        return cls(path, **json.loads(found))

    def to_json(self) -> str:
        """What this rank sees, for the others."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "path"})

    def begin(self, content: dict[str, Any]) -> None:
        """Makes the folder this run's own; what another run left is set aside.

        Args:
            content: of run.json; under "deciding" all that decides the training's result.
        """
        stages: dict[str, StageInputs] = {}
        if self.continues:
            stages = read_run(self.path).get("stages", {})
        else:
            with writing(self.path):
                _keep_what_is_no_runs(self.path)
                _set_aside(self.path)
        results.write_result(self.path / results.RUN, {**content, "stages": stages})

    def finish(self, output: StageOutput) -> None:
        """Says that the stage's results are there; with this folder's model, an earlier run's are let go."""
        content = read_run(self.path)
        content["stages"] = {**content.get("stages", {}), output.name: output.inputs}
        results.write_result(self.path / results.RUN, content)
        if output.model == self.path:
            _let_go(self.path)


def check_base_not_overwritten(path: Path, base: Path) -> None:
    """Raises OutputError where a run in the folder would take away the base model that it begins with."""
    output, base = path.resolve(), base.resolve()
    if not base.is_relative_to(output):
        return
    within = base.relative_to(output).parts
    if not within or any(fnmatch(within[0], pattern) for pattern in (*RUN_PATTERNS, PREVIOUS, GOING)):
        raise OutputError(
            f"distributed.train.outputDir: {path} holds the base model ({base}), which would give way to the "
            "tuned one; name another folder"
        )


def mend(path: Path) -> None:
    """Ends what a kill interrupted in an output folder that this run holds.

    Raises:
        OutputError: a folder in it that a run writes into is a link.
    """
    atomic.clear(path, (*RUN_PATTERNS, saving.MODEL, heartbeat.OWN))
    for name in (PREVIOUS, GOING, CURVES):
        if (path / name).is_symlink():
            raise OutputError(f"{path / name}: a link, into which this run would write; delete it")


def inspect_run(
    path: Path,
    outputs: Sequence[StageOutput],
    *,
    overwrite: bool,
    fresh: bool,
    unfit: Callable[[Path, int], str | None] = lambda checkpoint, step_rows: None,
) -> RunDirectory:
    """What the folder means for this run; only what a kill left half-done is ended.

    Args:
        outputs: of each stage, in their order; one of them leaves its model in this folder.
        overwrite: an earlier, different run gives way, once this one is whole.
        fresh: so does this same run.
        unfit: why the run cannot go on from a whole checkpoint, by its folder and by the sequences of a step.

    Raises:
        OutputError: the folder holds another run and may not be overwritten.
    """
    if fresh:
        return RunDirectory(path)
    old = read_run(path)
    training = next(output for output in outputs if output.model == path)
    if "deciding" in old and fingerprint.is_same(old["deciding"], training.inputs):
        done = _done(path, old, outputs)
        if training.name in done:
            _let_go(path)  # a kill may have come in between
        step_rows = old.get("step_rows", 0)
        checkpoint = None
        if training.name not in done:
            checkpoint = directories.newest_whole(path, lambda folder: unfit(folder, step_rows))
        return RunDirectory(path, True, done, checkpoint, step_rows)
    left = _left_by_a_run(path)
    if left:
        found = left[0].name
        if "deciding" in old:
            found = f"another run: {fingerprint.first_difference(old['deciding'], training.inputs)}"
        if not overwrite:
            raise OutputError(
                f"distributed.train.outputDir: {path} holds {found}; "
                "set distributed.train.overwriteOutputDir to true, or name another folder"
            )
        if old:
            log.warning("%s holds %s; it gives way to this run (overwriteOutputDir)", path, found)
    return RunDirectory(path)


def find_results(path: Path, outputs: Sequence[StageOutput], *, fresh: bool) -> RunDirectory:
    """The same for a job that does not train: which stages' results are there, whoever trained the model."""
    return RunDirectory(path, done=() if fresh else _done(path, read_run(path), outputs))


def read_run(path: Path) -> dict[str, Any]:
    """What run.json says of the run that the folder holds; nothing where there is none.

    Raises:
        OutputError: the file is broken.
    """
    file = path / results.RUN
    try:
        content: dict[str, Any] | None = read_checked(file)
        if content is not None and "stages" not in content:
            raise ValueError("stages is missing")
    except ValueError as error:
        raise OutputError(
            f"{file}: {error}, so nobody knows which run this folder holds; "
            "delete that file to begin anew, or name another folder"
        ) from error
    return content or {}


def _done(path: Path, run: dict[str, Any], outputs: Sequence[StageOutput]) -> tuple[str, ...]:
    stages = run.get("stages", {})
    done = []
    for output in outputs:
        if output.name not in stages:
            continue
        if not fingerprint.is_same(stages[output.name], output.inputs):
            changed = fingerprint.first_difference(stages[output.name], output.inputs)
            log.info("%s: %s gives way where this job makes it: %s", path, output.files[0], changed)
        elif _is_there(path, output):
            done.append(output.name)
    return tuple(done)


def holds_base(path: Path, inputs: StageInputs) -> bool:
    """Whether the folder says what the evaluation of the base model was, for these very inputs."""
    file = path / results.BASE
    if not _is_right(file):
        return False
    evaluation = read_result(file)
    return bool(evaluation) and fingerprint.is_same(evaluation["deciding"], inputs)


def _is_there(path: Path, output: StageOutput) -> bool:
    """Whether the stage's results are: its model, the first of its files, and each of them right.

    Raises:
        OutputError: one that is not repeatable has a broken file.
    """
    files = [path / name for name in output.files]
    if not files[0].is_file():
        return False
    if output.model and not is_saved(output.model):
        log.warning("%s: the model that was there is gone; it is made anew", output.model)
        return False
    if not output.is_repeatable:
        for file in files:
            read_result(file)
    return all(_is_right(file) for file in files if file.name in SHAPES)


def _is_right(file: Path) -> bool:
    """Whether what a stage left there, if anything, can be read again; else the stage is done anew."""
    try:
        read_checked(file)
    except ValueError as error:
        log.warning("%s: %s; it is made anew", file, error)
        return False
    return True


def _left_by_a_run(path: Path) -> list[Path]:
    return sorted({file for pattern in RUN_PATTERNS for file in path.glob(pattern)})


def _let_go(path: Path) -> None:
    """Deletes what waited until this run's model is whole."""
    for name in (PREVIOUS, GOING):
        shutil.rmtree(path / name, ignore_errors=True)
    directories.forget_broken(path)


def _keep_what_is_no_runs(path: Path) -> None:
    """Moves away, for good, what no run.json speaks for: a README.md there may be a user's."""
    left = _left_by_a_run(path)
    if not left or (path / results.RUN).is_file():
        return
    kept = next(place for n in count(1) if not (place := path / f"{KEPT}-{n}").exists())
    log.warning("%s holds %s, and no run.json: what is there is kept in %s", path, left[0].name, kept)
    kept.mkdir()
    for file in left:
        os.replace(file, kept / file.name)


def _set_aside(path: Path) -> None:
    """Keeps what an earlier run left until this one is whole. A kill in the middle loses none of it."""
    left, previous, going = _left_by_a_run(path), path / PREVIOUS, path / GOING
    has_finished = "train" in read_run(path).get("stages", {}) or going.is_dir()
    if previous.is_dir() and not has_finished:
        # A run that never finished is worth less than the whole one that waits there already.
        log.warning("%s: the unfinished run is deleted; a finished one waits in %s already", path, previous)
        for file in left:
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    elif left or going.is_dir():
        log.info("%s: what was there waits in %s until this run's model is whole", path, previous)
        going.mkdir(exist_ok=True)
        # The file that says whose all this is goes last.
        for file in sorted(left, key=lambda file: file.name == results.RUN):
            os.replace(file, going / file.name)
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(going, previous)
