"""A job from its settings to its results: the stages in order, and who waits for whom."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache, partial
from pathlib import Path

from transformers import PreTrainedModel, set_seed

from llm_finetune.checkpoints import compatibility
from llm_finetune.config import Settings
from llm_finetune.distributed import Group, has_bf16
from llm_finetune.host.numa import bind_to_numa_node
from llm_finetune.kernels.precision import Precision, choose_precision
from llm_finetune.models import ipex
from llm_finetune.pipeline import fingerprint
from llm_finetune.pipeline.background_preparation import BackgroundPreparation
from llm_finetune.pipeline.inputs import Inputs, expected_checkpoints, load_inputs
from llm_finetune.pipeline.run_directory import RunDirectory, StageOutput, find_results, inspect_run, mend
from llm_finetune.pipeline.stage import Run, Stage
from llm_finetune.runtime import heartbeat, shutdown
from llm_finetune.storage.directory_lock import locked, locked_beside

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    stages: Sequence[Stage],
    joined: AbstractContextManager[Group],
    preparation: BackgroundPreparation,
    *,
    fresh: bool,
) -> None:
    """Runs the job. Every rank calls it with the same settings.

    Args:
        stages: all that there are, in their order.
        joined: joins the process group and leaves it.
        preparation: returns the data that is being prepared in the background.
        fresh: start over, even where outputDir holds this very run.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    wanted = [stage for stage in stages if stage.enabled(settings)]
    if not wanted:
        log.warning("nothing to do: distributed.doTrain, doEval, doQuantize and doBenchmark are all false")
        return
    if settings.train.use_ipex and ipex.is_installed():
        # Cannot be undone, so before any stage: later stages, in whatever process, compute with them too.
        log.info("using the kernels of the Intel extension %s", ipex.register_kernels())
    with ExitStack() as held:
        with joined as group:
            inputs = load_inputs(settings, group, preparation, partial(check, settings, wanted))
            if group.ranks.is_main_process:
                _hold_output(settings, held)
            job = _find_run(settings, wanted, inputs, group, fresh)
            together = [stage for stage in wanted if stage.on_all_ranks]
            if any(stage.name in job.left for stage in together):
                with bind_to_numa_node(group.ranks.local_rank, group.ranks.local_size):
                    for stage in together:
                        stage.prepare(job)
                    for stage in together:
                        _do(stage, job)
        # The group is left: a rank that has nothing more to do may be lost, and its memory is free.
        job.model = job.tuned = None
        if job.left and job.is_main_process:
            for stage in wanted:
                if not stage.on_all_ranks:
                    # Whatever an earlier stage drew, or none did, this one draws the same numbers.
                    set_seed(settings.train.seed)
                    _do(stage, job)
            log.info("done: model, results and report are in %s", job.directory.path)


def check(settings: Settings, stages: Iterable[Stage], folder: Path, meta_model: PreTrainedModel) -> None:
    """Refuses what one of the stages could not do. See `Stage.check`."""
    for stage in stages:
        if stage.enabled(settings):
            stage.check(settings, folder, meta_model)


def _do(stage: Stage, job: Run) -> None:
    """Does the stage where it is left to do, and writes down that it is done."""
    if stage.name not in job.left:
        return
    result = stage.run(job)
    if job.is_main_process:
        # Not every training has a checkpoint of its last step to go on from.
        with shutdown.defer_signals():
            stage.write(job, result)
            job.directory.finish(job.outputs[stage.name])


def _hold_output(settings: Settings, held: ExitStack) -> None:
    """Takes the output folders for this run, until the job has ended."""
    patience, output = settings.lost_worker_timeout_minutes * 60, Path(settings.train.output_dir)
    held.enter_context(locked(output, patience))
    if settings.do_quantize:
        key, quantized = "distributed.quantize.outputDir", Path(settings.quantize.output_dir)
        held.enter_context(locked_beside(quantized, patience, key))
    mend(output)
    held.enter_context(heartbeat.heartbeat_writer(output))


def _find_run(settings: Settings, wanted: Sequence[Stage], inputs: Inputs, group: Group, fresh: bool) -> Run:
    """The job as the output folder, as rank 0 sees it, leaves it to do."""
    outputs: dict[str, StageOutput] = {}

    def look() -> str:
        sources = _sources(settings, inputs)
        outputs.update({stage.name: stage.output(settings, sources) for stage in wanted})
        return _inspect_output(settings, inputs, list(outputs.values()), fresh).to_json()

    found = group.on_rank_zero("output folder", look, deadline_seconds=3600)
    directory = RunDirectory.from_json(Path(settings.train.output_dir), found)
    left = _stages_left(wanted, directory)
    return Run(settings, inputs, directory, group, _precision(settings, group), outputs, left)


def _inspect_output(
    settings: Settings, inputs: Inputs, outputs: list[StageOutput], fresh: bool
) -> RunDirectory:
    path = Path(settings.train.output_dir)
    if not settings.do_train:
        return find_results(path, outputs, fresh=fresh)

    @cache
    def expected() -> compatibility.Expected:
        return expected_checkpoints(settings, inputs)

    def unfit(checkpoint: Path, step_rows: int) -> str | None:
        return compatibility.problem(checkpoint, step_rows, expected())

    overwrite = settings.train.overwrite_output_dir
    return inspect_run(path, outputs, overwrite=overwrite, fresh=fresh, unfit=unfit)


def _stages_left(wanted: Sequence[Stage], directory: RunDirectory) -> frozenset[str]:
    """The stages whose results the output folder does not hold yet, or not for long."""
    left: list[Stage] = []
    for stage in wanted:
        # What is trained or evaluated together writes over the results of what comes behind it there.
        goes_with = stage.on_all_ranks and any(other.on_all_ranks for other in left)
        if stage.name not in directory.done or goes_with or (stage.sums_up and left):
            left.append(stage)
    if not left:
        log.info(
            "nothing to do: %s holds this very run, finished; --fresh or another outputDir runs it again",
            directory.path,
        )
    return frozenset(stage.name for stage in left)


def _sources(settings: Settings, inputs: Inputs) -> fingerprint.Sources:
    summary = inputs.prepared.summary if inputs.prepared else None
    return fingerprint.Sources(
        settings.to_values(),
        model=fingerprint.of_model(inputs.folder),
        records=summary.train.digest if summary else "",
        validation=summary.validation.digest if summary and summary.validation else "",
    )


def _precision(settings: Settings, group: Group) -> Precision:
    bf16 = settings.train.bf16
    if bf16 == "auto":
        # All ranks or none: the same weights in two formats would not be the same model.
        bf16 = group.all_reduce_sum([has_bf16()])[0] == group.ranks.size
    return choose_precision(bf16, trains_all_weights=settings.do_train and not settings.train.use_lora)
