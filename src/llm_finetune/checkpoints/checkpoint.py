"""Writes and reads the content of a checkpoint: weights, optimizer, the Trainer's state and the progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ExportableState, TrainerState

from llm_finetune.checkpoints import weights
from llm_finetune.checkpoints.atomic_write import atomic_checkpoint
from llm_finetune.checkpoints.optimizer_state import save_optimizer, state_bytes
from llm_finetune.checkpoints.training_state import Progress
from llm_finetune.errors import OutputError
from llm_finetune.models.saving import weight_bytes

STATE = "trainer_state.json"


def write_checkpoint(trainer: Any, progress: Progress, world_size: int) -> None:
    """Writes the checkpoint of the step in `progress`.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(trainer.args.output_dir)
    size = weight_bytes(trainer.model) + state_bytes(trainer.optimizer)
    with atomic_checkpoint(path, progress.step, world_size, size) as folder:
        weights.save(trainer.model, folder)
        save_optimizer(trainer.optimizer, trainer.lr_scheduler, folder)
        for callback in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(callback, ExportableState):
                trainer.state.stateful_callbacks[type(callback).__name__] = callback.state()
        trainer.state.save_to_json(str(folder / STATE))
        progress.write(folder)


@contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Turns any error in reading a verified checkpoint into one line.

    Raises:
        OutputError: its content is not what is expected; another version may have written it.
    """
    try:
        yield
    except OutputError:
        raise  # says already what is wrong
    except Exception as error:  # of several libraries
        raise OutputError(
            f"{folder}: this version cannot resume from it ({type(error).__name__}: {error}); start over "
            "with --fresh"
        ) from error


def read_state(folder: Path) -> Progress:
    """The progress that a verified checkpoint holds; also checks that the Trainer can read its own state."""
    with reading(folder):
        TrainerState.load_from_json(str(folder / STATE))
        return Progress.read(folder)
