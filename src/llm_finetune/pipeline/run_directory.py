"""The output folder of a run: which run it holds, what is in it already, and what is replaced when."""

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

from llm_finetune.checkpoints import directories
from llm_finetune.errors import OutputError
from llm_finetune.evaluation.result import BaseModelEvaluation
from llm_finetune.models import saving
from llm_finetune.models.saving import is_saved
from llm_finetune.pipeline import fingerprint
from llm_finetune.pipeline.fingerprint import StageInputs
from llm_finetune.pipeline.run_record import RunRecord
from llm_finetune.runtime import heartbeat
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing
from llm_finetune.storage.result import Result

log = logging.getLogger(__name__)

PREVIOUS = "previous"
GOING = ".previous"  # while it is being filled
PRESERVED = "preserved"
CURVES = "runs"  # as TensorBoard has them
# What a run leaves; nothing else in the folder is ever touched.
RUN_PATTERNS = (
    "checkpoint-*",
    "corrupt-checkpoint-*",
    "broken-checkpoint-*",  # of earlier versions
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
    "base_model_evaluation.json",
    "prompt_config.json",
    "prompt.json",  # of earlier versions
    "report.html",
    "run.json",
    CURVES,
)


@dataclass(frozen=True)
class StageOutput:
    """What a stage leaves, and what decides it.

    Attributes:
        name: of the stage.
        results: what shows that it was done; after the first, what need not be there.
        model: the folder of the model that it leaves; None: it leaves none.
        is_repeatable: a broken file is reason enough to do the stage again; else it is an error.
    """

    name: str
    inputs: StageInputs
    results: tuple[type[Result], ...]
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

    def begin(self, record: RunRecord) -> None:
        """Makes the folder this run's own; what another run left is set aside.

        Args:
            record: of this run; stages that it has done already are added.
        """
        old = read_run(self.path) if self.continues else None
        if old:
            record = record.model_copy(update={"stages": old.stages})
        else:
            with writing(self.path):
                _preserve_what_is_no_runs(self.path)
                _set_aside(self.path)
        record.write(self.path)

    def finish(self, output: StageOutput) -> None:
        """Records that the stage is done; with this folder's model, an earlier run's results are deleted."""
        record = read_run(self.path) or RunRecord(stages={})
        record.with_stage(output.name, output.inputs).write(self.path)
        if output.model == self.path:
            _delete_previous(self.path)


def check_base_not_overwritten(path: Path, base: Path) -> None:
    """Raises OutputError where a run in the folder would take away the base model that it begins with."""
    output, base = path.resolve(), base.resolve()
    if not base.is_relative_to(output):
        return
    within = base.relative_to(output).parts
    if not within or any(fnmatch(within[0], pattern) for pattern in (*RUN_PATTERNS, PREVIOUS, GOING)):
        raise OutputError(
            f"distributed.train.outputDir: {path} holds the base model ({base}), which the tuned model would "
            "overwrite; name another folder"
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
        overwrite: an earlier, different run is replaced, once this one is whole.
        fresh: so is this same run.
        unfit: why the run cannot go on from a whole checkpoint, by its folder and by the sequences of a step.

    Raises:
        OutputError: the folder holds another run and may not be overwritten.
    """
    if fresh:
        return RunDirectory(path)
    old = read_run(path)
    training = next(output for output in outputs if output.model == path)
    if old and old.deciding is not None and fingerprint.is_same(old.deciding, training.inputs):
        done = _done(path, old, outputs)
        if training.name in done:
            _delete_previous(path)  # a kill may have come in between
        step_rows = old.step_rows
        checkpoint = None
        if training.name not in done:
            checkpoint = directories.newest_whole(path, lambda folder: unfit(folder, step_rows))
        return RunDirectory(path, True, done, checkpoint, step_rows)
    left = _left_by_a_run(path)
    if left:
        found = left[0].name
        if old and old.deciding is not None:
            found = f"another run: {fingerprint.first_difference(old.deciding, training.inputs)}"
        if not overwrite:
            raise OutputError(
                f"distributed.train.outputDir: {path} holds {found}; "
                "set distributed.train.overwriteOutputDir to true, or name another folder"
            )
        if old:
            log.warning("overwriting the previous run in %s (overwriteOutputDir): it holds %s", path, found)
    return RunDirectory(path)


def find_results(path: Path, outputs: Sequence[StageOutput], *, fresh: bool) -> RunDirectory:
    """The same for a job that does not train: which stages' results are there."""
    return RunDirectory(path, done=() if fresh else _done(path, read_run(path), outputs))


def read_run(path: Path) -> RunRecord | None:
    """What run.json says of the run that the folder holds; None where there is none.

    Raises:
        OutputError: the file is broken.
    """
    try:
        return RunRecord.load(path)
    except ValueError as error:
        raise OutputError(
            f"{path / RunRecord.file_name}: {error}, so it is unknown which run this folder holds; "
            "delete that file to start over, or name another folder"
        ) from error


def _done(path: Path, run: RunRecord | None, outputs: Sequence[StageOutput]) -> tuple[str, ...]:
    stages = run.stages if run else {}
    done = []
    for output in outputs:
        if output.name not in stages:
            continue
        if not fingerprint.is_same(stages[output.name], output.inputs):
            changed = fingerprint.first_difference(stages[output.name], output.inputs)
            log.info("%s: %s is out of date: %s", path, output.results[0].file_name, changed)
        elif _is_there(path, output):
            done.append(output.name)
    return tuple(done)


def holds_base(path: Path, inputs: StageInputs) -> bool:
    """Whether the folder has the evaluation of the base model, for these very inputs."""
    if not _is_valid(path, BaseModelEvaluation):
        return False
    evaluation = BaseModelEvaluation.read(path)
    return evaluation is not None and fingerprint.is_same(evaluation.deciding, inputs)


def _is_there(path: Path, output: StageOutput) -> bool:
    """Whether the stage's results are: its model, the first of its files, and each of them valid.

    Raises:
        OutputError: one that is not repeatable has a broken file.
    """
    if not output.results[0].path_in(path).is_file():
        return False
    if output.model and not is_saved(output.model):
        log.warning("%s: model files are missing; the stage %s runs again", output.model, output.name)
        return False
    if not output.is_repeatable:
        for result in output.results:
            result.read(path)
    return all(_is_valid(path, result) for result in output.results)


def _is_valid(path: Path, result: type[Result]) -> bool:
    """Whether what a stage left there, if anything, can be read again; else the stage runs again."""
    try:
        result.load(path)
    except ValueError as error:
        log.warning("%s: %s; the stage that writes it runs again", result.path_in(path), error)
        return False
    return True


def _left_by_a_run(path: Path) -> list[Path]:
    return sorted({file for pattern in RUN_PATTERNS for file in path.glob(pattern)})


def _delete_previous(path: Path) -> None:
    """Deletes what waited until this run's model is whole."""
    for name in (PREVIOUS, GOING):
        shutil.rmtree(path / name, ignore_errors=True)
    directories.delete_corrupt(path)


def _preserve_what_is_no_runs(path: Path) -> None:
    """Moves away, for good, what no run.json speaks for: a README.md there may be a user's."""
    left = _left_by_a_run(path)
    if not left or (path / RunRecord.file_name).is_file():
        return
    preserved = next(place for n in count(1) if not (place := path / f"{PRESERVED}-{n}").exists())
    log.warning("%s holds %s, and no run.json: what is there is moved to %s", path, left[0].name, preserved)
    preserved.mkdir()
    for file in left:
        os.replace(file, preserved / file.name)


def _set_aside(path: Path) -> None:
    """Keeps what an earlier run left until this one is whole. A kill in the middle loses none of it."""
    left, previous, going = _left_by_a_run(path), path / PREVIOUS, path / GOING
    run = read_run(path)
    has_finished = bool(run and "train" in run.stages) or going.is_dir()
    if previous.is_dir() and not has_finished:
        # A run that never finished is worth less than the whole one that waits there already.
        log.warning("%s: the unfinished run is deleted; a finished one waits in %s already", path, previous)
        for file in left:
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    elif left or going.is_dir():
        log.info("%s: what was there waits in %s until this run's model is whole", path, previous)
        going.mkdir(exist_ok=True)
        # The file that says which run this is goes last.
        for file in sorted(left, key=lambda file: file.name == RunRecord.file_name):
            os.replace(file, going / file.name)
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(going, previous)
