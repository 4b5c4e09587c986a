"""A model's weights in safetensors files: read one at a time, written a shard at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llm_finetune.errors import ModelError
from llm_finetune.models.resolve import INDEX, read_index

SINGLE = "model.safetensors"
SHARD_BYTES = 1_000_000_000


class StoredWeights:
    """The weights of a model folder.

    Each is memory-mapped by itself and released with its tensor, so that reading a model of any size holds
    one weight at a time.

    Raises:
        ModelError: there are no weights, or a file of them cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _files_of_weights(folder)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def read(self, name: str) -> torch.Tensor:
        """The weight of that name; it shares the file's memory until it is written to."""
        file = self.folder / self._files[name]
        try:
            with safe_open(file, framework="pt") as tensors:
                weight: torch.Tensor = tensors.get_tensor(name)
                return weight
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: the weight {name} cannot be read: {error}") from error

    def headers(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """For each weight its format as safetensors calls it (BF16, F8_E4M3), and its shape; none is read."""
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for file in dict.fromkeys(self._files.values()):
            try:
                with safe_open(self.folder / file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118
                        weight = tensors.get_slice(name)
                        found[name] = weight.get_dtype(), tuple(weight.get_shape())
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{self.folder / file}: the weights cannot be read: {error}") from error
        return found

    def mapped(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights by name. Those of a file share one mapping, which lasts as long as any of them."""
        for file in dict.fromkeys(self._files.values()):
            try:
                with safe_open(self.folder / file, framework="pt") as tensors:
                    yield from ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{self.folder / file}: the weights cannot be read: {error}") from error

    @property
    def size_bytes(self) -> int:
        """Of the files, on disk."""
        return sum((self.folder / file).stat().st_size for file in set(self._files.values()))


class ShardWriter:
    """Takes weights one after another and writes them to files of about `shard_bytes` each.

    Args:
        folder: one that no reader uses yet; files have their final names after `finish`.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._waiting: dict[str, torch.Tensor] = {}
        self._waiting_bytes = 0
        self._shards: list[list[str]] = []
        self.size_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Takes one weight."""
        if self._waiting and self._waiting_bytes + tensor.nbytes > self.shard_bytes:
            self._write_shard()
        # A copy of its own: what the file system maps may be a whole file for one small weight.
        self._waiting[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._waiting_bytes += tensor.nbytes
        self.size_bytes += tensor.nbytes

    def finish(self) -> None:
        """Writes what is left, and the index where there are several files."""
        self._write_shard()
        count = len(self._shards)
        if count == 1:
            os.replace(self._partial(0), self.folder / SINGLE)
            return
        weight_map = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            os.replace(self._partial(number), self.folder / file)
            weight_map.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self.size_bytes}, "weight_map": weight_map}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _write_shard(self) -> None:
        save_file(self._waiting, self._partial(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._waiting))
        self._waiting, self._waiting_bytes = {}, 0

    def _partial(self, number: int) -> Path:
        return self.folder / f".shard-{number}"


def _files_of_weights(folder: Path) -> dict[str, str]:
    """For each weight the name of its file."""
    index = folder / INDEX
    if index.is_file():
        weight_map = read_index(index)
        missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
        if missing:
            raise ModelError(
                f"{folder}: no file {missing[0]}, which {INDEX} names: the download is incomplete"
            )
        return weight_map
    file = folder / SINGLE
    if not file.is_file():
        raise ModelError(f"{folder}: no weights; expected {SINGLE}, or {INDEX} and the files it names")
    try:
        with safe_open(file, framework="pt") as tensors:
            return dict.fromkeys(tensors.keys(), SINGLE)
    except SafetensorError as error:
        raise ModelError(f"{file}: the weights cannot be read: {error}") from error
