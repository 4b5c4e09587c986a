"""The folder of a quantized model: what is in it, and loading it.

    quantization.json       algorithm, bits, group size, scheme, and the names of the quantized layers
    *.safetensors           <layer>.codes, .scales and .zeros; the other weights under their own names
    config.json, tokenizer, generation_config.json, prompt.json

Nothing in it is pickled, and nothing in it is run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_finetune.distributed.cores import has_bf16
from llm_finetune.errors import ModelError
from llm_finetune.model import base
from llm_finetune.model.codes import QuantizedWeight, Scheme, packed_columns, rounded_to_8_bits
from llm_finetune.model.kernels import quantized_linear
from llm_finetune.model.native.linear import NativeLinear, fits
from llm_finetune.model.stored import StoredWeights

DESCRIPTION = "quantization.json"
FORMAT = 1


@dataclass(frozen=True)
class Description:
    """What quantization.json says.

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
        """Makes the folder a quantized model's."""
        (folder / DESCRIPTION).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Raises ModelError where the folder is not a quantized model's, or of a later version."""
        file = folder / DESCRIPTION
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] > FORMAT:
                raise ModelError(
                    f"{file}: format {content['format']}; this version reads up to {FORMAT}: update it"
                )
            description = cls(**{**content, "layers": tuple(content["layers"])})
            description.check()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"{file}: not the description of a quantized model ({error}); quantize the model again"
            ) from error
        return description

    def check(self) -> None:
        """Raises ValueError where a value is none that a quantization writes."""
        right = {
            "bits": self.bits in range(1, 9),
            "group_size": isinstance(self.group_size, int) and (self.group_size == -1 or self.group_size > 0),
            "scheme": self.scheme in ("sym", "asym"),
            "layers": all(isinstance(layer, str) for layer in self.layers),
        }
        if wrong := [name for name, is_right in right.items() if not is_right]:
            raise ValueError(f"{wrong[0]}: found {getattr(self, wrong[0])!r}")


def load_quantized(
    folder: Path, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model of a quantized folder, to answer with; a causal language model of transformers.

    Args:
        dtype: of what is not quantized. None: bf16 where the processor has it, else fp32.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: the folder is not a quantized model's, or is not whole.
    """
    from accelerate import init_empty_weights

    folder = Path(folder)
    description = Description.read(folder)
    if dtype is None:
        dtype = torch.bfloat16 if has_bf16() else torch.float32
    config = base.load_config(folder, trust_remote_code)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    tensors = dict(StoredWeights(folder).mapped())
    scheme = Scheme(description.bits, description.group_size, description.scheme == "sym")
    try:
        for path in description.layers:
            linear = model.get_submodule(path)
            model.set_submodule(path, _restored(path, linear, scheme, tensors, dtype))
    except (AttributeError, KeyError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{folder}: {DESCRIPTION} and the weights do not fit together: {what}") from error
    # Copies: what is mapped lies in memory as the file has it, and that is not always aligned.
    plain = {name: tensors.pop(name).to(dtype, copy=True) for name in list(tensors)}
    model.load_state_dict(plain, strict=False, assign=True)
    del plain
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(f"{folder}: the weight {name} is not in its files: the folder is not whole")
    file = folder / "generation_config.json"
    if file.is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except Exception as error:  # whatever a broken file raises, the user needs its name
            raise ModelError(f"{file}: cannot be read ({error}); quantize the model again") from error
    _pack_head(model)
    return model.requires_grad_(False).eval()


def _pack_head(model: PreTrainedModel) -> None:
    """The output head in 8 bits, in memory only, where kernels of our own run it.

    It is not quantized in the folder, but read whole for every token: in bf16 a fourth of all that a 4-bit
    model of 0.7 billion parameters reads. The perplexity is that of the model as it is loaded.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype != torch.bfloat16:
        return
    weight = rounded_to_8_bits(head.weight)
    if fits(weight):
        model.set_output_embeddings(NativeLinear(weight, head.bias))


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
    columns = {"codes": packed_columns(length, scheme.bits), "scales": groups}
    if not scheme.symmetric:
        columns["zeros"] = packed_columns(groups, scheme.bits)
    parts = {name: tensors.pop(f"{path}.{name}") for name in columns}
    for name, part in parts.items():
        if part.shape != (out, columns[name]):
            raise ValueError(f"{path}.{name} has shape {tuple(part.shape)}, expected {(out, columns[name])}")
    weight = QuantizedWeight(scheme, length, parts["codes"], parts["scales"], parts.get("zeros"))
    bias = tensors.pop(f"{path}.bias", None)
    return quantized_linear(weight, None if bias is None else bias.to(dtype, copy=True), dtype)
