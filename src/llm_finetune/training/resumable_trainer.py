"""transformers' Trainer, interruptible at any moment: a resumed run equals one that was never interrupted.

The rows of a step follow from the epoch and the number of rows seen before it, its random numbers from seed,
step and the index of the batch within the step. So a checkpoint stores no data loader and no generator state,
and a group of another size resumes from it just as well.

The private methods of Trainer that are overridden here are held by tests/training/test_trainer_contract.py.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments

from llm_finetune.checkpoints import directories, manifest, weights
from llm_finetune.checkpoints.checkpoint import read_state, reading, write_checkpoint
from llm_finetune.checkpoints.optimizer_state import load_optimizer
from llm_finetune.checkpoints.save_lock import SaveLock
from llm_finetune.checkpoints.training_state import Progress
from llm_finetune.data import Split
from llm_finetune.data.batches import DistributedBatchSampler, make_dataloader
from llm_finetune.distributed.process_group import Group
from llm_finetune.errors import LossError, SettingsError
from llm_finetune.kernels.precision import Precision
from llm_finetune.objectives.base import Objective
from llm_finetune.runtime.rank_progress import apart, begin_loop, end_loop
from llm_finetune.storage.errors import writing
from llm_finetune.training.interruption import InterruptionHandler

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

log = logging.getLogger(__name__)

NAMED_RECORDS = 8


@dataclass(frozen=True)
class TrainerInputs:
    """What a training takes beside the model and transformers' arguments.

    Attributes:
        rows: the rows that are trained on.
        validation: the rows that are evaluated on the way, if any.
        objective: gives the loss of a batch and the figures of an evaluation.
        pad_id: token that fills rows.
        precision: number formats of the evaluation's forward passes.
        group: the ranks that train together.
        save_interval_minutes: longest time between two checkpoints; None: saved by strategy alone.
    """

    rows: Split
    validation: Split | None
    objective: Objective
    pad_id: int
    precision: Precision
    group: Group
    save_interval_minutes: float | None


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """The Trainer's loop over rows that are distributed by epoch and position."""

    control: TrainerControl

    def __init__(self, model: torch.nn.Module, arguments: TrainingArguments, inputs: TrainerInputs) -> None:
        # The Trainer evaluates only where it has a data set.
        super().__init__(model, arguments, train_dataset=inputs.rows, eval_dataset=inputs.validation)
        self.inputs, self.rows, self.group = inputs, inputs.rows, inputs.group
        self.progress = self.saved = Progress()
        self.saved_at = time.monotonic()
        self.save_lock = SaveLock(self._save_last_step)
        self.batches: DistributedBatchSampler
        self.micro_batch_index = 0  # of this rank, within the epoch or what is left of it
        self.step_loss, self.tokens_seen, self.tokens_of_all = 0.0, 0, 0
        self.save_is_due = self.has_stepped = self.is_epoch_end = False
        self.add_callback(_StepEvents(self))

    def run(self, checkpoint: Path | None) -> None:
        """Trains to the end, from the checkpoint where there is one.

        Whatever ends it earlier, rank 0 saves the last finished step first.
        """
        if checkpoint:
            self.progress = self.saved = read_state(checkpoint)
        interruption = InterruptionHandler(self.group, self.save_lock, lambda: self.progress.step)
        # Checkpoints report their own write errors; the loggers of reportTo do not.
        with interruption, writing(Path(self.args.output_dir)):
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    # --- Rows and steps -------------------------------------------------------------------------------

    @property
    def step_rows(self) -> int:
        """Rows of a step, over all ranks."""
        share = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return int(share * self.group.ranks.size)

    def get_train_dataloader(self) -> DataLoader[Any]:
        batch_size, seed = self.args.per_device_train_batch_size, self.args.seed
        loader = make_dataloader(self.rows, batch_size, self.group.ranks, self.inputs.pad_id, seed)
        assert isinstance(loader.batch_sampler, DistributedBatchSampler)
        self.batches = loader.batch_sampler
        return loader

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> tuple[Any, ...]:
        """The numbers of epochs (first) and steps (last), counted from the checkpoint's position."""
        epochs, *others, steps = super().set_initial_training_values(args, dataloader)
        done, full = self.progress, math.ceil(len(self.rows) / self.step_rows)
        if args.max_steps > 0:
            epochs = done.epoch + 1 + math.ceil((steps - done.step) / full)
        elif done.epoch < epochs:
            rest = math.ceil((len(self.rows) - done.row) / self.step_rows)
            steps = done.step + rest + (epochs - done.epoch - 1) * full
        else:
            steps = done.step
        return (epochs, *others, steps)

    def _init_training_state(self, max_steps: int, *arguments: Any) -> tuple[int, int]:
        super()._init_training_state(max_steps, *arguments)
        # `Progress` holds what was due when the checkpoint was written.
        self.control._new_step()
        # The logging and saving intervals may have changed since.
        self.state.compute_steps(self.args, max_steps)
        return self.progress.epoch, 0

    def _run_epoch(self, **call: Any) -> None:
        """Runs an epoch, or the rest of the one that the checkpoint interrupted."""
        done = self.progress
        if done.is_over and done.row == 0:
            self.control.should_training_stop = True
            return
        self.batches.begin(call["epoch"], done.row)
        self.micro_batch_index = 0
        if done.to_evaluate:
            self.control.should_evaluate, self.control.should_save = True, done.to_save
            self._after_step(call)
        micro_batches = len(self.batches)
        if micro_batches and not self.progress.is_over:
            steps = math.ceil(micro_batches / self.args.gradient_accumulation_steps)
            # The sampler starts at the right row: nothing to skip, no generator state to restore.
            lengths = {"steps_in_epoch": micro_batches, "num_update_steps_per_epoch": steps}
            super()._run_epoch(**{**call, **lengths, "resume_from_checkpoint": None})
        else:
            self.control.should_training_stop = self.progress.is_over
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._after_step(call)

    # --- A step ---------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward pass of one batch, with random numbers seeded for this batch alone."""
        ranks = self.group.ranks
        index = self.micro_batch_index % self.args.gradient_accumulation_steps * ranks.size + ranks.rank
        torch.manual_seed(_mix_seeds(self.args.seed, self.state.global_step, index))
        try:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
            raise self._unused_weights_error() from error
        if not loss.isfinite():
            raise self._divergence(f"the loss is {loss.item()}", [self.micro_batch_index])
        self.step_loss += loss.item()
        self.micro_batch_index += 1
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(float(norm)):
            last = self.micro_batch_index - 1
            first = last - last % self.args.gradient_accumulation_steps
            raise self._divergence(f"the gradient's norm is {float(norm)}", range(first, last + 1))
        return norm

    def _weights_without_gradient(self) -> list[str]:
        """Trained weights that no label depends on, such as the vision tower when training on text."""
        parameters = self.model.named_parameters()
        return [name for name, weight in parameters if weight.requires_grad and weight.grad is None]

    def _unused_weights_error(self) -> SettingsError:
        unused = self._weights_without_gradient()
        named = f"{len(unused)} of the trained weights" if unused else "some of the trained weights"
        first = f", first {unused[0]}" if unused else ""
        return SettingsError(
            f"distributed.train.ddpFindUnusedParameters: {named} get no gradient{first}; with several "
            "processes write true (slower), or train others (loraTargetModules)"
        )

    def _divergence(self, what: str, micro_batches: Iterable[int]) -> LossError:
        rows = [index for micro_batch in micro_batches for index in self.batches.batch(micro_batch)]
        places = [f"{file} row {row}" for index in rows for _, file, row in self.rows.provenance(index)]
        named = ", ".join(places[:NAMED_RECORDS])
        more = f" and {len(places) - NAMED_RECORDS} more" if len(places) > NAMED_RECORDS else ""
        return LossError(
            f"step {self.state.global_step + 1}: {what}, in a batch of the records {named}{more}: look at "
            "them, or lower distributed.train.learningRate and start over with --fresh"
        )

    def before_optimizer_step(self) -> None:
        """Shares the step's loss among the ranks, and whether rank 0 wants a checkpoint after this step."""
        ranks, minutes = self.group.ranks, self.inputs.save_interval_minutes
        if ranks.size > 1 and not self.args.ddp_find_unused_parameters and self._weights_without_gradient():
            raise self._unused_weights_error()
        is_due = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        mine = [self.step_loss / ranks.size, self.tokens_seen, ranks.is_main_process and is_due]
        self.step_loss, tokens, due = self.group.all_reduce_sum(mine)
        self.tokens_of_all, self.save_is_due = int(tokens), bool(due)
        self.save_lock.begin_update()
        self.has_stepped = True

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, *others: Any, learning_rate: float | None = None, **named: Any
    ) -> None:
        """Logs, evaluates and saves after a step or an epoch, where that is due."""
        self.save_lock.begin_update()
        if self.has_stepped:
            self._count_step()
            if self.control.should_log:
                self._log_step(grad_norm, learning_rate)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *others, **named)
        self._settle()
        self.save_lock.end_update()

    def _after_step(self, call: dict[str, Any]) -> None:
        names = ("model", "trial", "epoch", "ignore_keys_for_eval", "start_time")
        self._maybe_log_save_evaluate(self._tr_loss, None, **{name: call[name] for name in names})

    def _count_step(self) -> None:
        done = self.progress
        self.has_stepped = False
        self.control.should_save |= self.save_is_due and self.args.save_strategy != "no"
        self.progress = Progress(
            step=self.state.global_step,
            epoch=done.epoch,
            row=min(done.row + self.step_rows, len(self.rows)),
            loss_sum=done.loss_sum + self.step_loss,
            unlogged_sum=done.unlogged_sum + self.step_loss,
            unlogged=done.unlogged + 1,
            to_evaluate=self.control.should_evaluate,
            to_save=self.control.should_save,
            is_over=self.control.should_training_stop,
        )
        self.state.epoch = done.epoch + self.progress.row / len(self.rows)
        self.step_loss = 0.0

    def _settle(self) -> None:
        """Records that everything due after the step or the epoch is done."""
        is_over = self.control.should_training_stop
        self.progress = replace(self.progress, to_evaluate=False, to_save=False, is_over=is_over)
        if self.is_epoch_end:
            self.progress = replace(self.progress, epoch=self.progress.epoch + 1, row=0)
            self.is_epoch_end = False

    def _log_step(self, grad_norm: Any, learning_rate: float | None) -> None:
        """Replaces the Trainer's own: its mean forgets the steps before a restart and costs a collective."""
        done = self.progress
        logs = {"loss": done.unlogged_sum / done.unlogged, "learning_rate": learning_rate}
        if grad_norm is not None:
            logs["grad_norm"] = float(grad_norm)
        self.progress = replace(done, unlogged_sum=0.0, unlogged=0)
        self.log(logs)

    # --- Checkpoints ----------------------------------------------------------------------------------

    def _determine_best_metric(self, *arguments: Any, **named: Any) -> bool:
        """Saves a new best model at once, since the next step changes its weights."""
        is_new_best: bool = super()._determine_best_metric(*arguments, **named)
        self.control.should_save |= is_new_best and self.args.load_best_model_at_end
        return is_new_best

    def _save_checkpoint(self, *_: Any) -> None:
        self._settle()
        if self.group.ranks.is_main_process:
            self._save_last_step()

    def _save_last_step(self) -> None:
        """Writes the last finished step, unless it is on disk already."""
        if self.progress == self.saved:
            return
        with apart():  # writing to a slow volume does not count as a stall
            write_checkpoint(self, self.progress, self.group.ranks.size)
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        directories.rotate(Path(self.args.output_dir), self.args.save_total_limit, best)
        self.saved, self.saved_at = self.progress, time.monotonic()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            with reading(checkpoint):
                load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_from_checkpoint(self, checkpoint: str, *_: Any) -> None:
        """Replaces the Trainer's own, which matches names in the files as they are and skips unknown ones."""
        with reading(checkpoint):
            weights.load(self.model, Path(checkpoint))

    def _load_best_model(self) -> None:
        log.info("loading the best model: %s", self.state.best_model_checkpoint)
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _finalize_training(self, *arguments: Any) -> Any:
        """Locates the best checkpoint only now: its directory may have moved since it was written."""
        end_loop()
        if self.args.load_best_model_at_end and self.state.best_global_step:
            best = Path(self.args.output_dir) / directories.name_of(self.state.best_global_step)
            # Rank 0, which may still be writing it, checks it once: so all ranks load the same model.
            wrong = self.group.on_rank_zero("best checkpoint", lambda: manifest.problem(best) or "", 3600)
            if wrong:
                log.warning(
                    "%s, which had the lowest loss, is corrupt: %s; using the model of the last step",
                    best,
                    wrong,
                )
            else:
                self.state.best_model_checkpoint = str(best)
        return super()._finalize_training(*arguments)


class _StepEvents(TrainerCallback):  # type: ignore[misc]
    """Passes on the events for which the Trainer has no method to override."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        begin_loop()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.before_optimizer_step()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.trainer.is_epoch_end = True


def _mix_seeds(*numbers: int) -> int:
    """Derives one seed from several numbers, so that neighboring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
