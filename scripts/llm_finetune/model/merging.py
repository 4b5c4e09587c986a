"""A tuned model's weights, one at a time: the base's, with the adapter worked in where it has one.

peft does the arithmetic, layer by layer, on a model that has no memory for its weights: each base weight is
put into its layer in fp32, merged, taken out and forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llm_finetune.errors import ModelError
from llm_finetune.model import adapters, base
from llm_finetune.model.fetch import fetch
from llm_finetune.model.folder import base_of, kind_of
from llm_finetune.model.stored import StoredWeights

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig, PreTrainedModel

# Kinds of initialisation that change the base model's weights, which are then not those of its files.
CHANGES_BASE = ("pissa", "olora", "loftq", "corda")
UNSUPPORTED = ("lora_bias", "trainable_token_indices", "target_parameters", "layer_replication")


@dataclass(frozen=True)
class Weight:
    """One weight of a tuned model.

    Attributes:
        name: as in the base's files.
        module_name: as in the model that transformers builds; None where it has no such weight.
        tensor: in fp32 where the adapter changed it, else in the base's format.
        dtype: the base's format.
    """

    name: str
    module_name: str | None
    tensor: torch.Tensor
    dtype: torch.dtype


class TunedModel:
    """A model in one folder, or a base model and a LoRA adapter.

    Args:
        folder: with config.json and the weights.
        adapter: the adapter's folder.

    Attributes:
        tied: weights that are another's, and that other.
        untied: those of them that the adapter makes their own.
        absent: weights of the model that the files do not hold as such.

    Raises:
        ModelError: a folder cannot be read, or the adapter is of a kind that cannot be merged.
    """

    def __init__(self, folder: Path, adapter: Path | None = None, trust_remote_code: bool = False) -> None:
        self.folder, self.adapter, self.trust_remote_code = folder, adapter, trust_remote_code
        self.stored = StoredWeights(folder)
        self.config: PretrainedConfig = base.load_config(folder, trust_remote_code)
        outline = self.outline()
        self.tied: dict[str, str] = dict(outline.all_tied_weights_keys)
        self._module_names = _module_names(self.stored, outline)
        there = set(self._module_names.values()) | set(self.tied)
        self.absent = sorted(name for name, _ in outline.named_parameters() if name not in there)
        self._layers: dict[str, Any] = {}
        self._replaced: dict[str, torch.Tensor] = {}
        if adapter:
            self._read_adapter(outline, adapter)
        changed = {f"{path}.weight" for path in self._layers} | set(self._replaced)
        self.untied = {target: source for target, source in self.tied.items() if changed & {target, source}}
        if self.untied:
            self.config.get_text_config().tie_word_embeddings = False
            self.config.tie_word_embeddings = False

    @property
    def own_files(self) -> Path:
        """The folder with the tokenizer and what else the training left."""
        return self.adapter or self.folder

    def outline(self) -> PreTrainedModel:
        """The model without memory for its weights."""
        return base.outline(self.config, self.trust_remote_code)

    def weights(self, without: Collection[str] = ()) -> Iterator[Weight]:
        """All weights, one at a time.

        Args:
            without: names in the model of weights that are left out.
        """
        for name in self.stored:
            module_name = self._module_names.get(name)
            if module_name not in without:
                yield self._weight(name, module_name, name)
        for target, source in self.untied.items():
            # One tensor in the base's files; two, once the adapter has changed one of them.
            if target not in self._module_names.values() and target not in without:
                stored_as = next(name for name, inside in self._module_names.items() if inside == source)
                yield self._weight(target, target, stored_as)

    def load(self) -> PreTrainedModel:
        """The model in the base's format; what the adapter left alone stays mapped from the files."""
        dtype = self.config.get_text_config().dtype or torch.float32
        model = base.hollow(self.config, dtype, self.trust_remote_code)
        state = {w.module_name: w.tensor.to(dtype) for w in self.weights() if w.module_name}
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        return model.requires_grad_(False).eval()

    def _weight(self, name: str, module_name: str | None, stored_as: str) -> Weight:
        tensor = self.stored.read(stored_as)
        dtype = tensor.dtype
        if module_name in self._replaced:
            tensor = self._replaced[module_name].float()
        path, _, last = (module_name or "").rpartition(".")
        if last == "weight" and path in self._layers:
            tensor = _merged(self._layers[path], tensor)
        return Weight(name, module_name, tensor, dtype)

    def _read_adapter(self, outline: PreTrainedModel, adapter: Path) -> None:
        from peft import set_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        config = read_lora_config(adapter)
        config.inference_mode = True
        # peft moves adapters to where the base weights are: in memory, in fp32, and of no size.
        hollow = torch.zeros(())
        for module in outline.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(hollow.expand(parameter.shape), requires_grad=False))
        try:
            model = adapters.put_on(outline, config, low_cpu_mem_usage=True)
            tensors = load_file(adapter / adapters.WEIGHTS)
            read = set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
        except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{adapter}: the adapter cannot be read, or does not fit {self.folder}: {error}"
            ) from error
        unread = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if strange := [*read.unexpected_keys, *unread]:
            raise ModelError(
                f"{adapter}: the adapter does not fit {self.folder}: {strange[0]} is in one of them alone"
            )
        inner = model.get_base_model()
        self._layers = {path: m for path, m in inner.named_modules() if isinstance(m, LoraLayer)}
        for name, parameter in inner.named_parameters():
            # What has got memory of its own came from the adapter: whole modules, or biases.
            if parameter.data_ptr() != hollow.data_ptr() and ".lora_" not in name:
                plain = name.replace(".modules_to_save.default", "").replace(".base_layer", "")
                self._replaced[plain] = parameter.detach()
        there = set(self._module_names.values())
        for path in self._layers:
            if not {f"{path}.weight", self.tied.get(f"{path}.weight")} & there:
                raise ModelError(
                    f"{adapter}: the adapter changes {path}, but the files of {self.folder} hold no weight "
                    "of that name (transformers makes it of others), so it cannot be merged"
                )


def find_tuned(folder: Path, trust_remote_code: bool = False) -> TunedModel:
    """The tuned model in a folder: a whole model, or an adapter, whose base is found by the name in it.

    Raises:
        ModelError: the folder holds neither, or the base is not to be had.
    """
    kind = kind_of(folder)
    if kind == "quantized":
        raise ModelError(f"{folder}: holds a quantized model; name the model that it was made from")
    if kind == "adapter":
        return TunedModel(base_of(folder, trust_remote_code), folder, trust_remote_code)
    return TunedModel(fetch(str(folder), None, weights=True, code=False), None, trust_remote_code)


def read_lora_config(folder: Path) -> LoraConfig:
    """The adapter's configuration. Raises ModelError where it is not a LoRA adapter that can be merged."""
    from peft import LoraConfig

    config = adapters.read_config(folder)
    if not isinstance(config, LoraConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ModelError(
            f"{folder}: an adapter of kind {kind}; only LoRA (with rsLoRA and DoRA) can be merged"
        )
    started_from = str(config.init_lora_weights).lower()
    unsupported = [name for name in UNSUPPORTED if getattr(config, name, None)]
    if started_from.startswith(CHANGES_BASE):
        unsupported.append(f"init_lora_weights={started_from}")
    if unsupported:
        raise ModelError(f"{folder}: a LoRA adapter with {unsupported[0]}, which cannot be merged")
    return config


@torch.no_grad()
def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """The base weight with the layer's adapter in it, in fp32."""
    inner = layer.get_base_layer()
    hollow, inner.weight = inner.weight, torch.nn.Parameter(weight.float(), requires_grad=False)
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter cannot be merged: {error}") from error
    merged: torch.Tensor = inner.weight.detach()
    inner.weight = hollow
    return merged


def _module_names(stored: StoredWeights, outline: PreTrainedModel) -> dict[str, str]:
    """For each weight of the files that the model takes as it is: its name in the model.

    Files may name weights with or without the prefix of the inner model, or as an earlier version did;
    transformers knows.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    taken = outline.state_dict()
    transforms = get_model_conversion_mapping(outline)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    prefix = outline.base_model_prefix
    names = {name: rename_source_key(name, renamings, [], prefix, taken)[0] for name in stored}
    return {name: inside for name, inside in names.items() if inside in taken}
