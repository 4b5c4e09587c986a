"""transformers' Trainer, made so that it can be ended at any moment and goes on as if it had not been.

A step's rows follow from the epoch and from the rows seen before it, its random numbers from the seed, the
step and the batch's place in it. So a checkpoint holds no state of a loader or a generator, and a group of
another size goes on from it just as well.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import replace
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
from llm_finetune.data.batches import DistributedBatchSampler, deal
from llm_finetune.distributed.process_group import Group
from llm_finetune.errors import LossError, SettingsError
from llm_finetune.runtime.rank_progress import apart, begin_loop, end_loop
from llm_finetune.storage.errors import writing
from llm_finetune.training.interruption import InterruptionHandler

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

log = logging.getLogger(__name__)

NAMED_RECORDS = 8


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """The Trainer's loop over dealt rows.

    Args:
        save_minutes: from one checkpoint to the next at most; None: the arguments' strategy alone counts.
    """

    control: TrainerControl

    def __init__(
        self,
        model: torch.nn.Module,
        arguments: TrainingArguments,
        rows: Split,
        validation: Split | None,
        *,
        pad_id: int,
        group: Group,
        save_minutes: float | None,
    ) -> None:
        # The Trainer asks for a data set before it evaluates.
        super().__init__(model, arguments, train_dataset=rows, eval_dataset=validation)
        self.rows, self.pad_id, self.group, self.save_minutes = rows, pad_id, group, save_minutes
        self.progress = self.saved = Progress()
        self.saved_at = time.monotonic()
        self.keeper = SaveLock(self._keep)
        self.batches: DistributedBatchSampler
        self.turn = 0  # batches of this epoch that this rank has been through
        self.step_loss, self.tokens_seen, self.tokens_of_all = 0.0, 0, 0
        self.save_is_due = self.has_stepped = self.is_epoch_end = False
        self.add_callback(_Moments(self))

    def run(self, checkpoint: Path | None) -> None:
        """Trains to the end, from the checkpoint where there is one.

        Whatever ends it earlier, rank 0 keeps the last finished step first.
        """
        if checkpoint:
            self.progress = self.saved = read_state(checkpoint)
        leaving = InterruptionHandler(self.group, self.keeper, lambda: self.progress.step)
        # Checkpoints tell themselves what they cannot write; curves (reportTo) do not.
        with leaving, writing(Path(self.args.output_dir)):
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    # --- Which rows, and how many steps ---------------------------------------------------------------

    @property
    def step_rows(self) -> int:
        """Rows of a step, over all ranks."""
        share = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return int(share * self.group.ranks.size)

    def get_train_dataloader(self) -> DataLoader[Any]:
        batch_size, seed = self.args.per_device_train_batch_size, self.args.seed
        loader = deal(self.rows, batch_size, self.group.ranks, self.pad_id, seed)
        assert isinstance(loader.batch_sampler, DistributedBatchSampler)
        self.batches = loader.batch_sampler
        return loader

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> tuple[Any, ...]:
        """The loop's lengths, first the epochs and last the steps: counted from where the checkpoint is."""
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
        # What was due at the moment of the checkpoint is in the progress.
        self.control._new_step()
        # How often to log and to save may have changed since.
        self.state.compute_steps(self.args, max_steps)
        return self.progress.epoch, 0

    def _run_epoch(self, **call: Any) -> None:
        """An epoch, or what is left of it."""
        done = self.progress
        if done.is_over and done.row == 0:
            self.control.should_training_stop = True
            return
        self.batches.begin(call["epoch"], done.row)
        self.turn = 0
        if done.to_evaluate:
            self.control.should_evaluate, self.control.should_save = True, done.to_save
            self._after_step(call)
        micro_batches = len(self.batches)
        if micro_batches and not self.progress.is_over:
            steps = math.ceil(micro_batches / self.args.gradient_accumulation_steps)
            # The loader stands at the right row already: nothing to skip, no generator to set.
            lengths = {"steps_in_epoch": micro_batches, "num_update_steps_per_epoch": steps}
            super()._run_epoch(**{**call, **lengths, "resume_from_checkpoint": None})
        else:
            self.control.should_training_stop = self.progress.is_over
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._after_step(call)

    # --- The moments of a step ------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward pass of one batch, with random numbers that are this batch's alone."""
        ranks = self.group.ranks
        place = self.turn % self.args.gradient_accumulation_steps * ranks.size + ranks.rank
        torch.manual_seed(_mixed(self.args.seed, self.state.global_step, place))
        try:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
            raise self._unused() from error
        if not loss.isfinite():
            raise self._diverged(f"the loss is {loss.item()}", [self.turn])
        self.step_loss += loss.item()
        self.turn += 1
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(float(norm)):
            first = self.turn - 1 - (self.turn - 1) % self.args.gradient_accumulation_steps
            raise self._diverged(f"the gradient's norm is {float(norm)}", range(first, self.turn))
        return norm

    def _without_gradient(self) -> list[str]:
        """What no label depends on, as the part that sees of a model that also reads."""
        parameters = self.model.named_parameters()
        return [name for name, weight in parameters if weight.requires_grad and weight.grad is None]

    def _unused(self) -> SettingsError:
        unused = self._without_gradient()
        named = f"{len(unused)} of the trained weights" if unused else "some of the trained weights"
        first = f", first {unused[0]}" if unused else ""
        return SettingsError(
            f"distributed.train.ddpFindUnusedParameters: {named} get no gradient{first}; with several "
            "processes write true (slower), or train others (loraTargetModules)"
        )

    def _diverged(self, what: str, turns: Iterable[int]) -> LossError:
        rows = [index for turn in turns for index in self.batches.batch(turn)]
        places = [f"{file} row {row}" for index in rows for _, file, row in self.rows.provenance(index)]
        named = ", ".join(places[:NAMED_RECORDS])
        more = f" and {len(places) - NAMED_RECORDS} more" if len(places) > NAMED_RECORDS else ""
        return LossError(
            f"step {self.state.global_step + 1}: {what}, in a batch of the records {named}{more}: look at "
            "them, or lower distributed.train.learningRate and start anew with --fresh"
        )

    def before_optimizer_step(self) -> None:
        """All ranks learn the step's loss, and whether rank 0 wants a checkpoint at its end."""
        ranks, minutes = self.group.ranks, self.save_minutes
        if ranks.size > 1 and not self.args.ddp_find_unused_parameters and self._without_gradient():
            raise self._unused()
        is_due = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        mine = [self.step_loss / ranks.size, self.tokens_seen, ranks.is_main_process and is_due]
        self.step_loss, tokens, due = self.group.sum_(mine)
        self.tokens_of_all, self.save_is_due = int(tokens), bool(due)
        self.keeper.move()
        self.has_stepped = True

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, *others: Any, learning_rate: float | None = None, **named: Any
    ) -> None:
        """What follows a step, and an epoch."""
        self.keeper.move()
        if self.has_stepped:
            self._count_step()
            if self.control.should_log:
                self._log_step(grad_norm, learning_rate)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *others, **named)
        self._settle()
        self.keeper.rest()

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
        """All that follows the step, or the epoch, is done."""
        is_over = self.control.should_training_stop
        self.progress = replace(self.progress, to_evaluate=False, to_save=False, is_over=is_over)
        if self.is_epoch_end:
            self.progress = replace(self.progress, epoch=self.progress.epoch + 1, row=0)
            self.is_epoch_end = False

    def _log_step(self, grad_norm: Any, learning_rate: float | None) -> None:
        """In the Trainer's place, whose mean forgets the steps before a restart and costs a collective."""
        done = self.progress
        logs = {"loss": done.unlogged_sum / done.unlogged, "learning_rate": learning_rate}
        if grad_norm is not None:
            logs["grad_norm"] = float(grad_norm)
        self.progress = replace(done, unlogged_sum=0.0, unlogged=0)
        self.log(logs)

    # --- Checkpoints ----------------------------------------------------------------------------------

    def _determine_best_metric(self, *arguments: Any, **named: Any) -> bool:
        """A new best is kept at once: its weights change with the next step."""
        is_new_best: bool = super()._determine_best_metric(*arguments, **named)
        self.control.should_save |= is_new_best and self.args.load_best_model_at_end
        return is_new_best

    def _save_checkpoint(self, *_: Any) -> None:
        self._settle()
        if self.group.ranks.is_main_process:
            self._keep()

    def _keep(self) -> None:
        """Writes the last finished step, unless it is on the disk."""
        if self.progress == self.saved:
            return
        with apart():  # a slow volume is no reason to start again
            write_checkpoint(self, self.progress, self.group.ranks.size)
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        directories.rotate(Path(self.args.output_dir), self.args.save_total_limit, best)
        self.saved, self.saved_at = self.progress, time.monotonic()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            with reading(checkpoint):
                load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_from_checkpoint(self, checkpoint: str, *_: Any) -> None:
        """In the Trainer's place, which takes the names in the files for the model's, and leaves out what
        has none."""
        with reading(checkpoint):
            weights.load(self.model, Path(checkpoint))

    def _load_best_model(self) -> None:
        log.info("the best model is that of %s", self.state.best_model_checkpoint)
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _finalize_training(self, *arguments: Any) -> Any:
        """The best checkpoint is named only now: its folder may have moved since it was written."""
        end_loop()
        if self.args.load_best_model_at_end and self.state.best_global_step:
            best = Path(self.args.output_dir) / directories.name_of(self.state.best_global_step)
            # By rank 0, which may still be writing it: it is read once, and all load the same.
            wrong = self.group.once("best checkpoint", lambda: manifest.problem(best) or "", 3600)
            if wrong:
                log.warning(
                    "%s, which had the lowest loss, is broken: %s; the last step's model is kept", best, wrong
                )
            else:
                self.state.best_model_checkpoint = str(best)
        return super()._finalize_training(*arguments)


class _Moments(TrainerCallback):  # type: ignore[misc]
    """Tells the trainer of the two moments for which it has no method."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        begin_loop()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.before_optimizer_step()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.trainer.is_epoch_end = True


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, far from those of their neighbors."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
