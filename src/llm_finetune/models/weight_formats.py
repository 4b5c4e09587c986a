"""Storage formats of a model's weights: plain numbers, or codes that need scales to be read.

Training reads weights through transformers; merging and quantization read them one at a time. What is no
plain number has to be the same number to all of them, so what is read how is decided here, once:

    plain             fp64, fp32, fp16, bf16
    fp8               codes of 8 bits; <weight>_scale_inv holds a scale for each block of them, or one for all
    any other         refused, before anything is trained
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llm_finetune.errors import ModelError
from llm_finetune.models.safetensors_io import StoredWeights

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FP8 = "fp8"
CODES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
PLAIN = ("F64", "F32", "F16", "BF16")
SCALE = "_scale_inv"
BESIDE = (SCALE, ".activation_scale", ".input_scale")
ADVICE = "name the model that it was made from, or a version of it in bf16, fp16 or fp32"


def check_format(config: PretrainedConfig, folder: Path) -> None:
    """Raises ModelError where config.json says that the weights are codes that nothing here reads."""
    method = _settings(config).get("quant_method", "of no name") if _settings(config) else None
    if method not in (None, FP8):
        raise ModelError(
            f"{folder / 'config.json'}, quantization_config: the weights are stored as {method!s} codes, "
            f"which can be neither trained nor merged here: {ADVICE}"
        )


class Numbers(StoredWeights):
    """The weights of a model folder as the numbers that they stand for.

    Args:
        config: the model's; of fp8 it has the size of the blocks.

    Raises:
        ModelError: as StoredWeights; or the files hold codes that nothing here reads. Headers tell: no weight
            is read for that.
    """

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        check_format(config, folder)
        super().__init__(folder)
        self._is_fp8 = bool(_settings(config))
        self._block: Any = _settings(config).get("weight_block_size")
        self._dtype: torch.dtype = config.get_text_config().dtype or torch.bfloat16
        headers = self.headers()
        for name, (dtype, shape) in headers.items():
            if dtype in CODES and self._is_fp8 and name + SCALE in headers:
                self._check_grid(name, shape, *headers[name + SCALE])
            elif dtype not in PLAIN and (name.endswith(".weight") or dtype.startswith(("F4", "F6", "F8"))):
                # Of whole numbers only weights are codes: there are buffers of them.
                raise ModelError(
                    f"{folder}: its files hold {name} as codes ({dtype}), and nothing that says how to read "
                    f"them: {ADVICE}"
                )

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if not (self._is_fp8 and name.endswith(BESIDE)))

    def read(self, name: str) -> torch.Tensor:
        """The weight of that name; fp8 in the format that config.json names, else bf16."""
        weight = super().read(name)
        if weight.dtype not in CODES.values():
            return weight
        scales = super().read(name + SCALE).float()
        if scales.numel() > 1:
            for dim, size in enumerate(self._block):
                scales = scales.repeat_interleave(size, dim)
        return (weight.float() * scales).to(self._dtype)

    def _check_grid(self, name: str, shape: tuple[int, ...], dtype: str, grid: tuple[int, ...]) -> None:
        """transformers takes a block's size from the number of scales: right for whole blocks alone."""
        blocks = self._block if isinstance(self._block, list) else []
        is_one = math.prod(grid) == 1
        is_whole = all(type(b) is int for b in blocks) and shape == tuple(
            map(operator.mul, grid, blocks if len(blocks) == len(grid) == 2 else ())
        )
        if dtype not in PLAIN or not (is_one or is_whole):
            raise ModelError(
                f"{self.folder}: {name} has shape {shape} in {FP8}, its scales {grid} ({dtype}), which are "
                f"not one for each whole block of {self._block!r} (config.json, weight_block_size): {ADVICE}"
            )


def _settings(config: PretrainedConfig) -> dict[str, Any]:
    """Of the format, as config.json has them; empty where the weights are plain."""
    held = getattr(config, "quantization_config", None) or {}
    return held if isinstance(held, dict) else dict(held.to_dict())
