"""A job from its settings to its results: the stages in order, and who waits for whom."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack
from functools import cache, partial
from pathlib import Path

import torch
from transformers import set_seed

from llm_finetune.checkpoints import compatibility
from llm_finetune.config import Settings
from llm_finetune.data.batches import StepShape, shape_of
from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.distributed import Group, has_bf16
from llm_finetune.errors import GroupError
from llm_finetune.evaluation.evaluator import ModelEvaluation, judge, keep, kept, write_results
from llm_finetune.host.numa import bind_to_numa_node
from llm_finetune.kernels.precision import Precision, choose_precision
from llm_finetune.kernels.training.optimize import Switches, optimize_lora_layers, optimize_model
from llm_finetune.models import adapters, ipex, loading
from llm_finetune.models.packing_check import check_isolation, check_runs
from llm_finetune.models.saving import check_room, load_tuned, save_model
from llm_finetune.objectives.sft import label_log_probs
from llm_finetune.pipeline import fingerprint
from llm_finetune.pipeline.background_preparation import Ahead
from llm_finetune.pipeline.inputs import Inputs, expected_checkpoints, fitted_to_memory, gather, lora_plan
from llm_finetune.pipeline.rank_zero_stages import run_rank_zero_stages
from llm_finetune.pipeline.run_directory import RunDirectory, find_results, inspect_run, mend
from llm_finetune.runtime import heartbeat, shutdown
from llm_finetune.storage import results
from llm_finetune.storage.directory_lock import locked, locked_beside
from llm_finetune.training.trainer import Training, train

log = logging.getLogger(__name__)


def run(settings: Settings, joined: AbstractContextManager[Group], ahead: Ahead, *, fresh: bool) -> None:
    """Runs the job. Every rank calls it with the same settings.

    Args:
        joined: joins the process group and leaves it.
        ahead: hands over the data that is being prepared.
        fresh: begin anew, even where outputDir holds this very run.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    wanted = [stage for stage, is_wanted in enabled_stages(settings).items() if is_wanted]
    if not wanted:
        log.warning("nothing to do: distributed.doTrain, doEval, doQuantize and doBenchmark are all false")
        return
    if settings.train.use_ipex and ipex.is_installed():
        # For good, so before any stage: one that comes later, or alone in a process, computes with them too.
        log.info("using the kernels of the Intel extension %s", ipex.register_kernels())
    patience = settings.wait_for_lost_minutes * 60
    output = Path(settings.train.output_dir)
    with ExitStack() as held:
        with joined as group:
            inputs = gather(settings, group, ahead)
            if group.ranks.is_main_process:
                held.enter_context(locked(output, patience))
                if settings.do_quantize:
                    key, quantized = "distributed.quantize.outputDir", Path(settings.quantize.output_dir)
                    held.enter_context(locked_beside(quantized, patience, key))
                mend(output)
                held.enter_context(heartbeat.heartbeat_writer(output))
            folder = _found_output(settings, inputs, group, fresh)
            left = _left(wanted, folder)
            if {"train", "evaluate"} & set(left):
                with bind_to_numa_node(group.ranks.local_rank, group.ranks.local_size):
                    _train_and_evaluate(settings, inputs, folder, group)
        # The group is left: a rank that has nothing more to do may be lost, and its memory is free.
        if left and group.ranks.is_main_process:
            deciding = _deciding(settings, inputs)
            run_rank_zero_stages(settings, inputs, folder, {stage: deciding[stage] for stage in left})
            log.info("done: model, results and report are in %s", folder.path)


def _left(wanted: list[str], folder: RunDirectory) -> list[str]:
    """The stages whose results the output folder does not hold yet."""
    left = [stage for stage in wanted if stage not in folder.done]
    if left or "report" not in folder.done:
        return [*left, "report"]
    log.info(
        "nothing to do: %s holds this very run, finished; --fresh or another outputDir runs it anew",
        folder.path,
    )
    return []


def enabled_stages(settings: Settings) -> dict[str, bool]:
    """The stages in their order, and whether the settings ask for them."""
    return {
        "train": settings.do_train,
        "evaluate": settings.do_eval,
        "quantize": settings.do_quantize,
        "benchmark": settings.do_benchmark,
    }


def _found_output(settings: Settings, inputs: Inputs, group: Group, fresh: bool) -> RunDirectory:
    """What the output folder holds of this run, as rank 0 sees it."""
    train = settings.train
    path, quantized = Path(train.output_dir), Path(settings.quantize.output_dir)

    @cache
    def expected() -> compatibility.Expected:
        return expected_checkpoints(settings, inputs)

    def unfit(checkpoint: Path, step_rows: int) -> str | None:
        return compatibility.problem(checkpoint, step_rows, expected())

    def look() -> str:
        stages = _deciding(settings, inputs)
        if settings.do_train:
            overwrite = train.overwrite_output_dir
            found = inspect_run(path, stages, quantized, overwrite=overwrite, fresh=fresh, unfit=unfit)
        else:
            found = find_results(path, stages, quantized, fresh=fresh)
        return found.to_json()

    return RunDirectory.from_json(path, group.once("output folder", look, deadline_seconds=3600))


def _deciding(settings: Settings, inputs: Inputs) -> dict[str, fingerprint.StageInputs]:
    model = fingerprint.of_model(inputs.folder)
    summary = inputs.prepared.summary if inputs.prepared else None
    records = summary.train.digest if summary else ""
    validation = summary.validation.digest if summary and summary.validation else ""
    return fingerprint.of_stages(settings.to_values(), model, records, validation)


def _train_and_evaluate(settings: Settings, inputs: Inputs, folder: RunDirectory, group: Group) -> None:
    """Both at once: the base model has to be judged before its weights are trained."""
    trains = settings.do_train and "train" not in folder.done
    precision = _precision(settings, group)
    if trains:
        settings = fitted_to_memory(settings, inputs, precision, group.ranks.local_size)
    model = _load_base(settings, inputs, precision)
    tuned: torch.nn.Module | None
    stages = _deciding(settings, inputs)
    if settings.do_train and group.ranks.is_main_process:
        folder.begin(
            {
                "deciding": stages["train"],
                "step_rows": _wanted_rows(settings, folder, group),
                "settings": settings.to_values(),
                "versions": results.versions(),
            }
        )
    base_judged = None
    if settings.eval.base or not settings.do_train:
        base_judged = _base_judged(model, settings, inputs, precision, folder, group)
    if trains:
        tuned, training = _trained(model, settings, inputs, precision, folder, group)
        if group.ranks.is_main_process:
            # Not every run has a checkpoint of its last step to go on from.
            with shutdown.defer_signals():
                _write_tuned(tuned, training, settings, inputs, folder)
                folder.finish("train", stages["train"])
    else:
        # Trained by an earlier round of this run, or by another job.
        tuned = load_tuned(model, folder.path, precision.weights, settings.trust_remote_code)
        if tuned and settings.do_train:
            _optimize_as_trained(tuned, model, settings, precision)
    tuned_judged = _judged("tuned", tuned, settings, inputs, precision, group) if tuned else None
    if group.ranks.is_main_process and settings.do_eval:
        write_results(folder.path, base_judged, tuned_judged)
        folder.finish("evaluate", stages["evaluate"])


def _trained(
    model: torch.nn.Module,
    settings: Settings,
    inputs: Inputs,
    precision: Precision,
    folder: RunDirectory,
    group: Group,
) -> tuple[torch.nn.Module, Training]:
    """The model after training, and how that went."""
    # Here, since a run that goes on does not judge the base model again, which may draw random numbers.
    set_seed(settings.train.seed)
    if settings.train.use_lora:
        model = adapters.add_adapters(model, lora_plan(settings))
        if _on_cpu(settings):
            optimize_lora_layers(model, settings.train.speed.adapters)
        adapters.set_base_model(model, settings.model_name_or_path, settings.model_revision)
    if folder.checkpoint:
        log.info("going on from %s", folder.path / folder.checkpoint)
    elif group.ranks.is_main_process:
        check_room(model, folder.path)
    assert inputs.prepared
    training = train(
        model,
        inputs.prepared,
        settings.train,
        settings.eval,
        pad_id=inputs.pad_id,
        precision=precision,
        group=group,
        shape=_shape(settings, folder, group),
        checkpoint=folder.path / folder.checkpoint if folder.checkpoint else None,
    )
    return model, training


def _optimize_as_trained(
    tuned: torch.nn.Module, model: torch.nn.Module, settings: Settings, precision: Precision
) -> None:
    """What judges the model takes the same steps as in the process that trained it, to the last digit."""
    if not _on_cpu(settings):
        tuned.to("cuda")
    elif settings.train.use_lora:
        optimize_lora_layers(tuned, settings.train.speed.adapters)
    elif tuned is not model:
        _optimize(tuned, settings, precision)


def _write_tuned(
    model: torch.nn.Module, training: Training, settings: Settings, inputs: Inputs, folder: RunDirectory
) -> None:
    save_model(model, inputs.tokenizer, folder.path)
    results.write_result(folder.path / results.PROMPT, _asked_as(settings, inputs))
    results.write_result(folder.path / results.HISTORY, training.history)
    results.write_result(folder.path / results.TRAIN, training.to_json())
    write_results(folder.path, None, None)  # what an evaluation says comes later


def _wanted_rows(settings: Settings, folder: RunDirectory, group: Group) -> int:
    """Sequences of a step: as the run began, however many processes it has now."""
    train_settings = settings.train
    now = train_settings.per_device_batch_size * train_settings.gradient_accumulation_steps * group.ranks.size
    return folder.step_rows or now


def _shape(settings: Settings, folder: RunDirectory, group: Group) -> StepShape:
    """How this group shares out the sequences of a step."""
    wanted, ranks = _wanted_rows(settings, folder, group), group.ranks.size
    if wanted < ranks:
        raise GroupError(
            f"{ranks} processes cannot share a step of {wanted} sequences, as this run began: start it with "
            f"{wanted} or fewer (distributed.workers, processesPerWorker), or anew with --fresh"
        )
    shape = shape_of(wanted, ranks, settings.train.per_device_batch_size)
    if shape.rows < wanted:
        told = f"{ranks} processes cannot share {wanted} sequences a step evenly, as this run began"
        if settings.train.keep_effective_batch:
            # Worth another try: a lost worker may be back by then.
            raise GroupError(
                f"distributed.train.keepEffectiveBatch: {told}; start as many as divide them, or write false"
            )
        log.warning("%s: its steps have %d from here on", told, shape.rows)
    return shape


def _asked_as(settings: Settings, inputs: Inputs) -> dict[str, str]:
    """How the model was asked in training, for whoever asks it later."""
    assert inputs.prepared
    summary, train_settings = inputs.prepared.summary, settings.train
    # A conversation in a chat template brings its own opening, or none.
    has_opening = (summary.data_type, summary.prompt_format) != ("messages", "chat")
    return {
        "format": summary.prompt_format,
        "with_input": train_settings.prompt_with_input or "" if has_opening else "",
        "without_input": train_settings.prompt_without_input or "" if has_opening else "",
    }


def _precision(settings: Settings, group: Group) -> Precision:
    bf16 = settings.train.bf16
    if bf16 == "auto":
        # All ranks or none: the same weights in two formats would not be the same model.
        bf16 = group.sum_([has_bf16()])[0] == group.ranks.size
    return choose_precision(bf16, trains_all_weights=settings.do_train and not settings.train.use_lora)


def _load_base(settings: Settings, inputs: Inputs, precision: Precision) -> torch.nn.Module:
    """The base model on its device, proved to keep the records of a row apart."""
    log.info("loading %s in %s", inputs.folder, str(precision.weights).removeprefix("torch."))
    model: torch.nn.Module = loading.load_weights(
        inputs.folder, precision.weights, settings.trust_remote_code
    )
    vocab_size = inputs.config.get_text_config().vocab_size
    check_runs(model, vocab_size)
    if inputs.packed:
        check_isolation(model, vocab_size)
    if not _on_cpu(settings):
        return model.to("cuda")
    _optimize(model, settings, precision)
    return model


def _optimize(model: torch.nn.Module, settings: Settings, precision: Precision) -> None:
    speed = settings.train.speed
    switches = Switches(speed.attention, speed.head, speed.layers)
    optimize_model(
        model, switches, partial(label_log_probs, model), ignored=IGNORE_INDEX, precision=precision
    )


def _on_cpu(settings: Settings) -> bool:
    return settings.train.no_cuda or not torch.cuda.is_available()


def _base_judged(
    model: torch.nn.Module,
    settings: Settings,
    inputs: Inputs,
    precision: Precision,
    folder: RunDirectory,
    group: Group,
) -> ModelEvaluation | None:
    """The base model's judgment; an earlier round of this run may have left it."""
    if folder.has_base and settings.do_eval:
        return kept(folder.path) if group.ranks.is_main_process else None
    judged = _judged("base", model, settings, inputs, precision, group)
    if judged and settings.do_train and group.ranks.is_main_process:
        keep(judged, _deciding(settings, inputs)["evaluate"], folder.path)
    return judged


def _judged(
    name: str,
    model: torch.nn.Module,
    settings: Settings,
    inputs: Inputs,
    precision: Precision,
    group: Group,
) -> ModelEvaluation | None:
    """What the evaluation says of the model; None where the settings want none."""
    if not settings.do_eval or not inputs.prepared or not inputs.prepared.validation:
        return None
    judged = judge(
        name,
        model,
        inputs.prepared.validation,
        settings.eval,
        tokenizer=inputs.tokenizer,
        pad_id=inputs.pad_id,
        precision=precision,
        group=group,
    )
    # Rank 0 has answered prompts meanwhile, longer perhaps than a collective waits.
    group.barrier(settings.wait_for_preparation_minutes * 60)
    return judged
