"""Limits for a model's small files, checked before a library acts on them.

A number in config.json decides how much memory and time it takes to make the model, or its configuration
alone; a few replacements in tokenizer.json decide what becomes of a letter. The headers of the weight files
say how large the model is in truth.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_finetune.errors import ModelError
from llm_finetune.models.library_errors import blamed
from llm_finetune.models.resolve import weight_files

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
# From the least to the most that a model has.
RANGES = {
    "hidden_size": (1, 2**20),
    "n_embd": (1, 2**20),
    "d_model": (1, 2**20),
    "head_dim": (1, 2**16),
    "num_attention_heads": (1, 2**14),
    "n_head": (1, 2**14),
    "num_key_value_heads": (1, 2**14),
    "vocab_size": (1, 2**26),
    "num_labels": (0, 2**16),
}
# Dropout probabilities: attention_dropout, resid_pdrop, hidden_dropout_prob, ...
SHARE = re.compile(r"dropout(_prob|_rate|_p)?$|pdrop$")
LAYERS = re.compile(r"(num_hidden|num|n|num_decoder|num_encoder|decoder|encoder)_layers?$|depth$")
MOST_LAYERS = 2**12
CONFIG_BYTES = 64 << 20
# Weights in 4 bits lie eight to a number; some formats more.
PACKED = 16
GROWING = re.compile(rb'"type"\s*:\s*"(Replace|Prepend)"')
GROWN = 64  # Unicode's own forms make 18 of one, and a record may have eight million


def check_config(folder: Path) -> None:
    """Raises ModelError where config.json is invalid, or a size in it is out of range."""
    file = folder / CONFIG
    if file.stat().st_size > CONFIG_BYTES:
        raise ModelError(f"{file}: found {file.stat().st_size:,} bytes, expected a few thousand")
    with blamed(file, "cannot be read"):
        config = json.loads(file.read_bytes())
    if not isinstance(config, dict):
        raise ModelError(f"{file}: found {type(config).__name__}, expected an object")
    most_layers = min(MOST_LAYERS, len(stated_shapes(folder)) or MOST_LAYERS)
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        if SHARE.search(name) and not 0 <= value <= 1:
            raise ModelError(f"{file}, {key}: found {value}, expected a number from 0 to 1")
        if isinstance(value, float):
            continue
        least, most = (0, most_layers) if LAYERS.match(name) else RANGES.get(name, (value, value))
        if not least <= value <= most:
            raise ModelError(
                f"{file}, {key}: found {value}, expected a whole number from {least} to {most}"
                + (", as many as there are weights in its files" if most == most_layers < MOST_LAYERS else "")
            )


def check_size(parameters: int, folder: Path) -> None:
    """Raises ModelError where config.json describes a model far above what the weight files hold."""
    stated = sum(math.prod(shape) for shape in stated_shapes(folder).values())
    if stated and parameters > PACKED * stated:
        raise ModelError(
            f"{folder / CONFIG}: describes a model of {parameters:,} parameters, but its weight files hold "
            f"{stated:,}: they belong to different models"
        )


def stated_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """By name the shapes of a folder's weights, by the headers of its files; empty where it has none yet.

    Raises:
        ModelError: a header is broken.
    """
    from safetensors import safe_open

    shapes = {}
    for file in weight_files(folder):
        if not (folder / file).is_file():
            return {}
        with blamed(folder / file, "the weights cannot be read"), safe_open(folder / file, "numpy") as held:
            for name in held.keys():  # noqa: SIM118 (it is no mapping)
                shapes[name] = tuple(held.get_slice(name).get_shape())
    return shapes


def check_tokenizer(folder: Path) -> None:
    """Raises ModelError where tokenizer.json lets a letter grow without end."""
    file = folder / TOKENIZER
    if not file.is_file():
        return
    content = file.read_bytes()
    if not GROWING.search(content):
        return
    with blamed(file, "cannot be read"):
        tokenizer = json.loads(content)
    for part in ("normalizer", "decoder"):
        grown = _growth(tokenizer.get(part)) if isinstance(tokenizer, dict) else 1
        if grown > GROWN:
            raise ModelError(
                f"{file}, {part}: its replacements make one letter {grown:.3g}, expected {GROWN} at most"
            )


def _growth(step: Any) -> float:
    """How many letters become of one, at most."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1
    content, pattern = step.get("content"), step.get("pattern")
    if step.get("type") == "Replace" and isinstance(content, str):
        text = pattern.get("String") if isinstance(pattern, dict) else None
        # A regular expression may match between two letters.
        return max(1, len(content) / len(text)) if isinstance(text, str) and text else 1.0 + len(content)
    if step.get("type") == "Prepend" and isinstance(step.get("prepend"), str):
        return 1.0 + len(step["prepend"])
    return math.prod(_growth(value) for value in step.values() if isinstance(value, list))


def _numbers(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers, each with its key and those above it."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{key}", value
