"""The parts of transformers' Trainer that are no public API, and that the training loop overrides or reads.

A new minor version of transformers may rename, split or stop to call any of them without notice, and the
Trainer's own behavior would take the place of ours without an error. Before raising the ceiling in
pyproject.toml, read what changed in each method that fails here, then run `make faults`.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from transformers import Trainer

from llm_finetune.training.resumable_trainer import ResumableTrainer
from llm_finetune.training.trainer import RowTrainer

# Each private method that is overridden: its parameters, and the methods of the Trainer that call it.
OVERRIDDEN = {
    "_clip_grad_norm": ("model", {"_run_epoch"}),
    "_determine_best_metric": ("metrics trial", {"_maybe_log_save_evaluate"}),
    "_finalize_training": ("trial num_train_samples start_time", {"_inner_training_loop"}),
    "_get_num_items_in_batch": ("batch_samples device", {"get_batch_samples", "prediction_step"}),
    "_init_training_state": (
        "max_steps num_update_steps_per_epoch num_train_epochs resume_from_checkpoint trial",
        {"_inner_training_loop"},
    ),
    "_load_best_model": ("", {"_finalize_training"}),
    "_load_from_checkpoint": ("resume_from_checkpoint model", {"train", "_prepare_for_training"}),
    "_load_optimizer_and_scheduler": ("checkpoint", {"_prepare_for_training"}),
    "_maybe_log_save_evaluate": (
        "tr_loss grad_norm model trial epoch ignore_keys_for_eval start_time learning_rate",
        {"_run_epoch"},
    ),
    "_run_epoch": (
        "model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial ignore_keys_for_eval "
        "start_time resume_from_checkpoint epochs_trained steps_trained_in_current_epoch",
        {"_inner_training_loop"},
    ),
    "_save_checkpoint": ("model trial", {"_maybe_log_save_evaluate"}),
}

# Undocumented attributes that are set or read, and a method of the Trainer in which they must count.
ATTRIBUTES = {
    "_tr_loss": "_run_epoch",
    "loss_is_scaled_for_ga": "training_step",
    "model_accepts_loss_kwargs": "training_step",
}

# Public methods that are overridden for what happens around them: who calls them is no promise either.
CALLED = {
    "compute_loss": "training_step",
    "evaluate": "_evaluate",
    "get_train_dataloader": "_inner_training_loop",
    "set_initial_training_values": "_inner_training_loop",
    "training_step": "_run_epoch",
}


def names_in(method: str) -> tuple[str, ...]:
    function: Any = getattr(Trainer, method)
    return tuple(function.__code__.co_names)


def test_the_private_methods_overridden_are_those_named_here() -> None:
    """Also holds that no helper of ours hides a method of the Trainer by accident."""
    ours = {name for kind in (ResumableTrainer, RowTrainer) for name in vars(kind)}
    inherited = {name for name in ours if name.startswith("_") and not name.startswith("__")} & set(
        dir(Trainer)
    )
    assert inherited == set(OVERRIDDEN)


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_a_private_method_is_called_as_it_is_overridden(name: str) -> None:
    parameters, callers = OVERRIDDEN[name]
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == ["self", *parameters.split()]
    methods = [method for method, value in vars(Trainer).items() if inspect.isfunction(value)]
    assert {method for method in methods if name in names_in(method)} == callers


@pytest.mark.parametrize(("name", "method"), sorted({**ATTRIBUTES, **CALLED}.items()))
def test_an_attribute_or_public_method_counts_where_the_loop_relies_on_it(name: str, method: str) -> None:
    assert name in names_in(method)
