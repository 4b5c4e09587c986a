"""A training in a checkpoint: weights, optimizer, the Trainer's own state, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ExportableState, TrainerState

from llm_finetune.checkpoints import weights
from llm_finetune.checkpoints.atomic_write import written_whole
from llm_finetune.checkpoints.optimizer_state import save_optimizer, state_bytes
from llm_finetune.checkpoints.training_state import Progress
from llm_finetune.errors import OutputError
from llm_finetune.models.saving import weight_bytes

STATE = "trainer_state.json"


def write_checkpoint(trainer: Any, progress: Progress, world_size: int) -> None:
    """Writes the checkpoint of the step that `progress` tells of.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(trainer.args.output_dir)
    size = weight_bytes(trainer.model) + state_bytes(trainer.optimizer)
    with written_whole(path, progress.step, world_size, size) as folder:
        weights.save(trainer.model, folder)
        save_optimizer(trainer.optimizer, trainer.lr_scheduler, folder)
        for callback in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(callback, ExportableState):
                trainer.state.stateful_callbacks[type(callback).__name__] = callback.state()
        trainer.state.save_to_json(str(folder / STATE))
        progress.write(folder)


@contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Around what reads a whole checkpoint.

    Raises:
        OutputError: it holds something else than expected, as another version may have written it.
    """
    try:
        yield
    except OutputError:
        raise  # what was wrong is said already
    except Exception as error:  # of several libraries
        raise OutputError(
            f"{folder}: this version cannot resume from it ({type(error).__name__}: {error}); start over "
            "with --fresh"
        ) from error


def read_state(folder: Path) -> Progress:
    """Where the training of a whole checkpoint stands; the Trainer reads its own state again."""
    with reading(folder):
        TrainerState.load_from_json(str(folder / STATE))
        return Progress.read(folder)
