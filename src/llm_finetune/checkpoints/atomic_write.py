"""Writes a checkpoint under a temporary name, with a manifest, syncs it to disk and only then renames it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.checkpoints import directories, manifest
from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing

# For configuration, manifest and the file system's overhead, on top of the tensors.
SLACK_BYTES = 1_000_000


@contextmanager
def atomic_checkpoint(path: Path, step: int, world_size: int, tensor_bytes: int) -> Iterator[Path]:
    """Yields a directory for the checkpoint's files, which appear under its final name all or not at all.

    Args:
        path: the output directory.
        tensor_bytes: size of the tensors to write.

    Raises:
        OutputError: the files do not fit on the disk or cannot be written; earlier checkpoints stay intact.
    """
    folder = path / directories.name_of(step)
    aside = atomic.aside_of(folder)
    try:
        directories.remove_partial(path)  # makes room where a kill left something
        with writing(folder, tensor_bytes + SLACK_BYTES, lambda: _describe_newest(path)):
            path.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            yield aside
            manifest.write(aside, step, world_size)
            # The same step may have been saved before, with less of what was due after it done.
            atomic.place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _describe_newest(path: Path) -> str:
    finished = directories.steps(path)
    return f"{directories.name_of(finished[0])} is intact" if finished else "there is no checkpoint yet"
