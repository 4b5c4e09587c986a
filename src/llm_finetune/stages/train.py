"""The training: the base model in, the tuned one out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import set_seed

from llm_finetune.config import Settings
from llm_finetune.data.batches import StepShape, shape_of
from llm_finetune.data.prompt_config import PromptConfig
from llm_finetune.errors import GroupError
from llm_finetune.kernels.training.optimize import optimize_lora_layers
from llm_finetune.models import adapters
from llm_finetune.models.saving import check_room, save_model
from llm_finetune.pipeline.all_results import write_all_results
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.inputs import Inputs, check_adapter, fitted_to_memory, lora_plan
from llm_finetune.pipeline.run_directory import check_base_not_overwritten
from llm_finetune.pipeline.run_record import RunRecord, Values, versions
from llm_finetune.pipeline.stage import Run, Stage
from llm_finetune.training.result import TrainingHistory, TrainingResult
from llm_finetune.training.trainer import train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


class Train(Stage):
    """Trains an adapter, or all weights, and leaves them in outputDir."""

    name = "train"
    results = (TrainingResult, TrainingHistory)
    on_all_ranks = True
    is_repeatable = False  # hours of training are not repeated for a broken file of figures

    def enabled(self, settings: Settings) -> bool:
        """See `Stage`."""
        return settings.do_train

    def check(self, settings: Settings, folder: Path, meta_model: PreTrainedModel) -> None:
        """See `Stage`."""
        if settings.train.use_lora:
            check_adapter(settings, meta_model)
        check_base_not_overwritten(Path(settings.train.output_dir), folder)

    def inputs(self, sources: Sources) -> StageInputs:
        """See `Stage`."""
        return sources.tuned_model()

    def model_folder(self, settings: Settings) -> Path:
        """See `Stage`."""
        return Path(settings.train.output_dir)

    def prepare(self, run: Run) -> None:
        """Fits the settings to the memory, and makes the output folder this run's, once a model is loaded."""
        if self.name in run.left:
            local_size = run.group.ranks.local_size
            run.settings = fitted_to_memory(run.settings, run.inputs, run.precision, local_size)
        run.base_model()
        if run.is_main_process:
            record = RunRecord(
                deciding=run.outputs[self.name].inputs,
                step_rows=_wanted_rows(run),
                settings=cast(Values, run.settings.to_values()),
                versions=versions(),
                stages={},
            )
            run.directory.begin(record)

    def run(self, run: Run) -> tuple[TrainingResult, TrainingHistory]:
        """Trains the base model in place."""
        settings, directory = run.settings, run.directory
        model = run.base_model()
        # Here, since a resumed run does not evaluate the base model again, which may draw random numbers.
        set_seed(settings.train.seed)
        if settings.train.use_lora:
            model = adapters.add_adapters(model, lora_plan(settings))
            if run.on_cpu:
                optimize_lora_layers(model, settings.train.optimizations.fused_lora)
            adapters.set_base_model(model, settings.model_name_or_path, settings.model_revision)
        run.tuned = model
        if directory.checkpoint:
            log.info("going on from %s", directory.path / directory.checkpoint)
        elif run.is_main_process:
            check_room(model, directory.path)
        assert run.inputs.prepared
        return train(
            model,
            run.inputs.prepared,
            settings.train,
            settings.eval,
            run.objective,
            pad_id=run.inputs.pad_id,
            precision=run.precision,
            group=run.group,
            shape=_shape(run),
            checkpoint=directory.path / directory.checkpoint if directory.checkpoint else None,
        )

    def write(self, run: Run, result: tuple[TrainingResult, TrainingHistory]) -> None:
        """The model, how it was prompted, and how the training went."""
        path = run.directory.path
        assert run.tuned
        save_model(run.tuned, run.inputs.tokenizer, path)
        _prompt_config(run.settings, run.inputs).write(path)
        figures, history = result
        history.write(path)
        figures.write(path)
        write_all_results(path)  # the evaluation's figures are added later


def _wanted_rows(run: Run) -> int:
    """Sequences of a step: as the run began, however many processes it has now."""
    train_settings = run.settings.train
    in_process = train_settings.per_device_batch_size * train_settings.gradient_accumulation_steps
    return run.directory.step_rows or in_process * run.group.ranks.size


def _shape(run: Run) -> StepShape:
    """How this group shares out the sequences of a step."""
    wanted, ranks = _wanted_rows(run), run.group.ranks.size
    if wanted < ranks:
        raise GroupError(
            f"{ranks} processes cannot share a step of {wanted} sequences, as this run began: start it with "
            f"{wanted} or fewer (distributed.workers, processesPerWorker), or start over with --fresh"
        )
    shape = shape_of(wanted, ranks, run.settings.train.per_device_batch_size)
    if shape.rows < wanted:
        problem = f"{ranks} processes cannot share {wanted} sequences a step evenly, as this run began"
        if run.settings.train.require_constant_batch_size:
            # Worth another try: a lost worker may be back by then.
            raise GroupError(
                f"distributed.train.requireConstantBatchSize: {problem}; start as many as divide them, "
                "or write false"
            )
        log.warning("%s: its steps have %d from here on", problem, shape.rows)
    return shape


def _prompt_config(settings: Settings, inputs: Inputs) -> PromptConfig:
    """How the model was prompted in training, for those who prompt it later."""
    assert inputs.prepared
    summary, train_settings = inputs.prepared.summary, settings.train
    # A conversation in a chat template brings its own opening, or none.
    has_opening = (summary.data_type, summary.prompt_format) != ("messages", "chat")
    return PromptConfig.model_validate(
        {
            "format": summary.prompt_format,
            "with_input": train_settings.prompt_with_input or "" if has_opening else "",
            "without_input": train_settings.prompt_without_input or "" if has_opening else "",
        }
    )
