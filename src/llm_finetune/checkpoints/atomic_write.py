"""Writing a checkpoint: aside, proved by a manifest, on the disk, and only then under its name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.checkpoints import directories, manifest
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing

# Configuration, manifest and the file system's own needs, beside the tensors.
SLACK_BYTES = 1_000_000


@contextmanager
def written_whole(path: Path, step: int, world_size: int, tensor_bytes: int) -> Iterator[Path]:
    """Gives a folder to write the checkpoint's parts into; they are there under its name, or not at all.

    Args:
        path: the output folder.
        tensor_bytes: what the parts will take.

    Raises:
        OutputError: they do not fit on the disk, or cannot be written; earlier checkpoints stay as they are.
    """
    folder = path / directories.name_of(step)
    aside = atomic.aside_of(folder)
    try:
        directories.mend(path)  # makes room where a kill left something
        with writing(folder, tensor_bytes + SLACK_BYTES, lambda: _last(path)):
            path.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            yield aside
            manifest.write(aside, step, world_size)
            # The same step may have been kept before, with less of what followed it.
            atomic.place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _last(path: Path) -> str:
    kept = directories.steps(path)
    return f"{directories.name_of(kept[0])} is whole" if kept else "no checkpoint is there yet"
