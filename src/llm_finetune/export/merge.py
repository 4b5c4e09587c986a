"""A tuned model as one plain folder for transformers: the adapter merged into its base's weights."""

from __future__ import annotations

from pathlib import Path

from llm_finetune.models.merging import find_tuned
from llm_finetune.models.safetensors_io import SHARD_BYTES, ShardWriter
from llm_finetune.storage.atomic_directory import (
    atomic_directory,
    check_replaceable,
    copy_auxiliary_files,
    write_config,
)


def merge(
    folder: Path, output: Path, *, trust_remote_code: bool = False, shard_bytes: int = SHARD_BYTES
) -> int:
    """Writes the model; holds one shard and one weight in memory, never the model.

    Args:
        folder: an adapter (its base is found by the name in it), or a whole model, which is copied.
        output: empty or not there yet.
        trust_remote_code: run Python code that comes with the base.
        shard_bytes: of one weights file, at most, where no single weight is larger.

    Returns:
        Bytes of the weights.

    Raises:
        ModelError: there is no model, or an adapter that cannot be merged.
        OutputError: `output` holds something, or cannot be written.
    """
    check_replaceable(output)
    tuned = find_tuned(folder, trust_remote_code)
    with atomic_directory(output, tuned.stored.size_bytes) as aside:
        writer = ShardWriter(aside, shard_bytes)
        for weight in tuned.weights():
            writer.add(weight.name, weight.tensor.to(weight.dtype))
        writer.finish()
        copy_auxiliary_files([tuned.folder, tuned.own_files], aside, code=trust_remote_code)
        write_config(tuned.config, aside, code=trust_remote_code)
    return writer.size_bytes
