"""The folder of a quantized model: what is in it, and loading it.

    quantization.json       algorithm, bits, group size, scheme, and the names of the quantized layers
    *.safetensors           <layer>.codes, .scales and .zeros; the other weights under their own names
                            (stacked experts as one linear layer each: models/unstacked_experts.py)
    config.json, tokenizer, generation_config.json, prompt_config.json

Nothing in it is pickled or executed.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_finetune.errors import ModelError
from llm_finetune.host.cpu import has_bf16
from llm_finetune.models import loading
from llm_finetune.models.safetensors_io import StoredWeights
from llm_finetune.models.unstacked_experts import unstack
from llm_finetune.quantization.linear import quantized_linear
from llm_finetune.quantization.native_linear import NativeLinear, fits
from llm_finetune.quantization.packed_weights import (
    QuantizedWeight,
    Scheme,
    packed_columns,
    rounded_to_8_bits,
)

DESCRIPTION = "quantization.json"
FORMAT = 1
FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Description:
    """Content of quantization.json.

    Attributes:
        algorithm: RTN, GPTQ, AWQ or TEQ.
        scheme: sym or asym.
        layers: the quantized linear layers, by their paths in the model.
    """

    algorithm: str
    bits: int
    group_size: int
    scheme: str
    layers: tuple[str, ...]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Writes quantization.json, which marks the folder as a quantized model."""
        (folder / DESCRIPTION).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Raises ModelError where the folder is not a quantized model's, or of a later version."""
        file = folder / DESCRIPTION
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if type(content["format"]) is int and content["format"] > FORMAT:
                raise ModelError(
                    f"{file}: format {content['format']}; this version reads up to {FORMAT}: update it"
                )
            return cls(**_checked(content))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"{file}: not the description of a quantized model ({reprlib.repr(str(error))}); quantize "
                "the model again"
            ) from error


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Validated content of quantization.json. Raises ValueError where a value is invalid."""
    bits, size, layers = content["bits"], content["group_size"], content["layers"]
    right = {
        "format": content["format"] == FORMAT,
        "algorithm": isinstance(content["algorithm"], str),
        "bits": type(bits) is int and bits in range(1, 9),
        "group_size": type(size) is int and (size == -1 or size > 0),
        "scheme": content["scheme"] in ("sym", "asym"),
        "layers": isinstance(layers, list) and all(isinstance(layer, str) for layer in layers),
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise ValueError(f"{wrong[0]}: found {content[wrong[0]]!r}")
    return {**content, "layers": tuple(layers)}


def load_quantized(
    folder: Path, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a quantized folder for inference, as a causal language model of transformers.

    Args:
        dtype: of the weights that are not quantized. None: bf16 where the processor has it, else fp32.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: the folder is not a quantized model's, or is incomplete.
    """
    folder = Path(folder)
    description = Description.read(folder)
    if dtype is None:
        dtype = torch.bfloat16 if has_bf16() else torch.float32
    model = loading.hollow(loading.load_config(folder, trust_remote_code), dtype, trust_remote_code)
    unstack(model, description.layers)
    tensors = dict(StoredWeights(folder).mapped())
    scheme = Scheme(description.bits, description.group_size, description.scheme == "sym")
    try:
        plain = _plain_weights(model, description.layers)
        for path in description.layers:
            layer = _restored(path, model.get_submodule(path), scheme, tensors, dtype)
            model.set_submodule(path, layer)
        needed = {name for name, weight in plain.items() if _is_parameter(weight)}
        if left_out := needed - {*tensors, *model.all_tied_weights_keys}:
            raise ValueError(f"the weight {min(left_out)} is not in its files")
        # Copies: what is mapped lies in memory as the file has it, and that is not always aligned.
        state = {name: _plain(name, tensors.pop(name), plain, dtype) for name in list(tensors)}
    except (AttributeError, KeyError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{folder}: {DESCRIPTION} and the weights do not fit together: {what}") from error
    model.load_state_dict(state, strict=False, assign=True)  # held against the model's names above
    del state
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if parameter.is_meta:  # of those that are tied, neither is there
            raise ModelError(f"{folder}: the weight {name} is not in its files: the folder is incomplete")
    file = folder / "generation_config.json"
    if file.is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except Exception as error:  # whatever a broken file raises, the user needs its name
            raise ModelError(f"{file}: cannot be read ({error}); quantize the model again") from error
    loading.check_ends(model, folder)
    _pack_head(model)
    return model.requires_grad_(False).eval()


def _plain_weights(model: PreTrainedModel, quantized: Collection[str]) -> dict[str, torch.Tensor]:
    """The weights that are not quantized, by their names, without memory.

    Raises:
        ValueError: a layer that the description names cannot be quantized.
    """
    head = model.get_output_embeddings()
    for path in quantized:
        layer = model.get_submodule(path)
        if not is_linear(layer) or layer is head:
            raise ValueError(f"{reprlib.repr(path)} is no linear layer that a quantization touches")
    of_layers = {f"{path}.{name}" for path in quantized for name in ("weight", "bias")}
    weights = model.state_dict(keep_vars=True).items()
    return {name: weight for name, weight in weights if name not in of_layers}


def _is_parameter(weight: torch.Tensor) -> bool:
    """The rest the model makes itself, where the files do not hold it."""
    return isinstance(weight, torch.nn.Parameter)


def _plain(
    name: str, stored: torch.Tensor, expected: dict[str, torch.Tensor], dtype: torch.dtype
) -> torch.Tensor:
    """A weight that is not quantized, in the model's format.

    Raises:
        ValueError: the model has no such weight, or one of another shape, or it holds NaN or infinity.
    """
    if name not in expected:
        raise ValueError(f"the weight {reprlib.repr(name)} is none of this model's")
    if not expected[name].is_floating_point():
        _check(name, stored, tuple(expected[name].shape), expected[name].dtype)
        return stored.clone()
    _check(name, stored, tuple(expected[name].shape))
    return stored.to(dtype, copy=True)


def _check(name: str, part: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    """Raises ValueError where a tensor of the files has another shape or format, or holds NaN or infinity.

    Args:
        dtype: None: any of numbers with a fraction.
    """
    if part.shape != shape:
        raise ValueError(f"{name} has shape {tuple(part.shape)}, expected {shape}")
    if part.dtype != dtype and (dtype or part.dtype not in FLOATING):
        raise ValueError(
            f"{name} has format {part.dtype}, expected {dtype or 'bfloat16, float16 or float32'}"
        )
    if part.dtype.is_floating_point and not part.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity")


def _pack_head(model: PreTrainedModel) -> None:
    """The output head in 8 bits, in memory only, where native kernels run it.

    It is not quantized in the folder, but read whole for every token: in bf16 a fourth of all that a 4-bit
    model of 0.7 billion parameters reads. The perplexity is that of the model as it is loaded.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype != torch.bfloat16:
        return
    weight = rounded_to_8_bits(head.weight)
    if not fits(weight):
        return
    model.set_output_embeddings(NativeLinear(weight, head.bias))
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False)
    except AttributeError:  # some models look at their head's weight, which this one has not
        model.set_output_embeddings(head)


def is_linear(module: torch.nn.Module) -> TypeGuard[torch.nn.Linear | Conv1D]:
    """Whether it computes what those two do; a class that derives from them may do something else."""
    kind: Any = type(module)
    return isinstance(module, torch.nn.Linear | Conv1D) and _is_product(kind)


@cache
def _is_product(kind: Any) -> bool:
    if kind.forward in (torch.nn.Linear.forward, Conv1D.forward):
        return True
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        try:
            layer, inputs = kind(6, 4), torch.ones(2, 6)
            return torch.allclose(layer(inputs), torch.nn.Linear.forward(layer, inputs))
        except Exception:  # whatever a class raises that is made or called in another way
            return False


def features(linear: torch.nn.Linear | Conv1D) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    rows, columns = linear.weight.shape
    return (columns, rows) if isinstance(linear, Conv1D) else (rows, columns)


def _restored(
    path: str,
    linear: torch.nn.Linear | Conv1D,
    scheme: Scheme,
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype,
) -> torch.nn.Module:
    out, length = features(linear)
    groups = scheme.groups_in(length)
    expected = {
        "codes": (packed_columns(length, scheme.bits), torch.uint8),
        "scales": (groups, scheme.scale_dtype),
    }
    if not scheme.symmetric:
        expected["zeros"] = (packed_columns(groups, scheme.bits), torch.uint8)
    parts = {name: tensors.pop(f"{path}.{name}") for name in expected}
    for name, (columns, format_) in expected.items():
        _check(f"{path}.{name}", parts[name], (out, columns), format_)
    weight = QuantizedWeight(scheme, length, parts["codes"], parts["scales"], parts.get("zeros"))
    bias = None
    if linear.bias is not None:
        bias = tensors.pop(f"{path}.bias")
        _check(f"{path}.bias", bias, (out,))
        bias = bias.to(dtype, copy=True)
    return quantized_linear(weight, bias, dtype)
