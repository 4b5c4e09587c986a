"""Training: transformers' Trainer over prepared rows, with the project's objective and progress."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llm_finetune.config import EvalSettings, TrainSettings
from llm_finetune.data import Prepared
from llm_finetune.data.batches import StepShape
from llm_finetune.distributed.process_group import Group
from llm_finetune.evaluation.perplexity import evaluate
from llm_finetune.host.memory import peak_memory_bytes
from llm_finetune.kernels.precision import Precision
from llm_finetune.objectives.base import Objective
from llm_finetune.runtime import heartbeat
from llm_finetune.runtime.rank_progress import part_done
from llm_finetune.training.progress import Display, Pace, StepReport
from llm_finetune.training.result import CurvePoint, TrainingHistory, TrainingResult
from llm_finetune.training.resumable_trainer import ResumableTrainer, TrainerInputs


def train(
    model: torch.nn.Module,
    prepared: Prepared,
    settings: TrainSettings,
    eval_settings: EvalSettings,
    objective: Objective,
    *,
    pad_id: int,
    precision: Precision,
    group: Group,
    shape: StepShape,
    checkpoint: Path | None,
) -> tuple[TrainingResult, TrainingHistory]:
    """Trains the model in place and returns its figures and its curve.

    Args:
        prepared: the rows to train on, and those to evaluate on the way where the settings ask for that.
        objective: gives the loss of a batch and the figures of an evaluation.
        pad_id: token that fills rows; no record attends to it, and it is never trained on.
        shape: how a step's rows are distributed.
        checkpoint: directory of the verified checkpoint to resume from, if any.
    """
    trainer = RowTrainer(
        model,
        _arguments(settings, eval_settings, objective, precision, shape),
        TrainerInputs(
            rows=prepared.train,
            validation=prepared.validation if eval_settings.strategy != "no" else None,
            objective=objective,
            pad_id=pad_id,
            precision=precision,
            group=group,
            save_interval_minutes=settings.save_interval_minutes,
        ),
    )
    if eval_settings.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(eval_settings.early_stopping_patience))
    started = time.perf_counter()
    trainer.run(checkpoint)
    seconds = time.perf_counter() - started
    done = trainer.progress
    result = TrainingResult(
        train_loss=done.loss_sum / max(done.step, 1),
        steps=done.step,
        sequences_per_step=trainer.step_rows,
        seconds=seconds,
        tokens_per_second=group.all_reduce_sum([trainer.tokens_seen])[0] / seconds,
        peak_memory_bytes=int(group.all_reduce_max([peak_memory_bytes()])[0]),
    )
    entries = [entry for entry in trainer.state.log_history if {"loss", "eval_loss"} & set(entry)]
    return result, TrainingHistory([_curve_point(entry) for entry in entries])


def _curve_point(entry: dict[str, float]) -> CurvePoint:
    return CurvePoint.model_validate({name: entry[name] for name in CurvePoint.model_fields if name in entry})


class RowTrainer(ResumableTrainer):
    """The Trainer with the objective's loss, the project's evaluation and its progress."""

    def __init__(self, model: torch.nn.Module, arguments: TrainingArguments, inputs: TrainerInputs) -> None:
        super().__init__(model, arguments, inputs)
        # The loss is divided by the items of the whole step: the Trainer must not divide it once more.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.display = ProgressReports(visible=inputs.group.ranks.is_main_process)
        self.add_callback(self.display)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: Any) -> int:
        """The objective's items in the step's micro-batches, over all ranks."""
        items = sum(self.inputs.objective.count(batch) for batch in batch_samples)
        return int(self.group.all_reduce_sum([items])[0])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """The step's loss: the mean over all items of all micro-batches and ranks."""
        self.tokens_seen += int(inputs["tokens"])
        losses = self.inputs.objective.metrics(model, inputs)["loss"]
        part_done()
        # Each rank adds its part; DistributedDataParallel divides the sum by the number of ranks again.
        return losses.sum() * (self.group.ranks.size / float(num_items_in_batch))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["tokens_per_second"] = self.display.pace.tokens_per_second(self.tokens_of_all)
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        inputs = self.inputs
        assert inputs.validation is not None
        self.save_lock.end_update()
        result = evaluate(
            self.model,
            inputs.validation,
            inputs.objective,
            batch_size=self.args.per_device_eval_batch_size,
            pad_id=inputs.pad_id,
            precision=inputs.precision,
            group=inputs.group,
        )
        self.save_lock.begin_update()
        figures = {"loss": result.loss, "perplexity": result.perplexity, **result.metrics}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control = control
        return metrics


class ProgressReports(TrainerCallback):  # type: ignore[misc]
    """Hands the Trainer's events to the display."""

    def __init__(self, visible: bool) -> None:
        self.display = Display(visible)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace = Pace(state.global_step, state.max_steps)
        self.display.start(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.display.step(state.global_step)
        heartbeat.record_step(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        step, steps = state.global_step, state.max_steps
        if "loss" in logs:
            figures = (logs["loss"], logs["learning_rate"], logs["tokens_per_second"])
            self.display.report(StepReport(step, steps, *figures, self.pace.seconds_left(step)))
        elif "eval_loss" in logs:
            self.display.note(f"step {step}/{steps}  validation loss {logs['eval_loss']:.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.display.stop()


def _arguments(
    settings: TrainSettings,
    eval_settings: EvalSettings,
    objective: Objective,
    precision: Precision,
    shape: StepShape,
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=settings.output_dir,
        per_device_train_batch_size=shape.batch_size,
        per_device_eval_batch_size=eval_settings.per_device_batch_size,
        gradient_accumulation_steps=shape.accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup_ratio,  # below 1, transformers takes it as a share of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm
        or math.inf,  # not clipped, but a norm that is not finite is noticed
        # Our users write 0 for "never", which transformers refuses.
        logging_strategy="steps" if settings.logging_steps else "no",
        logging_steps=settings.logging_steps or 1,
        save_strategy=settings.save_strategy,
        save_steps=settings.save_steps,
        save_total_limit=settings.save_total_limit,
        restore_callback_states_from_checkpoint=True,
        eval_strategy=eval_settings.strategy,
        eval_steps=eval_settings.steps,
        load_best_model_at_end=eval_settings.load_best_model,
        metric_for_best_model=f"eval_{objective.best_metric}",
        greater_is_better=objective.greater_is_better,
        seed=settings.seed,
        bf16=precision.autocast,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        report_to=list(settings.report_to or ()),
        ddp_find_unused_parameters=settings.ddp_find_unused_parameters,
        use_cpu=settings.no_cuda or not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,  # a loss that is not finite must be noticed
        disable_tqdm=True,
    )
