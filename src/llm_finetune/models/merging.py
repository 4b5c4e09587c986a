"""A tuned model's weights, one at a time: the base's, with the adapter merged where it has one.

peft does the arithmetic, layer by layer, on a model that has no memory for its weights: each base weight is
put into its layer in fp32, merged, taken out and released.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from llm_finetune.errors import ModelError
from llm_finetune.models import adapters, loading
from llm_finetune.models.adapter_config import first_line, read_config, why_not_merged
from llm_finetune.models.model_directory import base_of, kind_of
from llm_finetune.models.resolve import fetch, has_weights
from llm_finetune.models.safetensors_io import StoredWeights
from llm_finetune.models.weight_conversion import Conversion, cut_from_others
from llm_finetune.models.weight_formats import Numbers

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Weight:
    """One weight of a tuned model.

    Attributes:
        name: as in the base's files, or as in the model that transformers builds of them.
        tensor: in fp32 where the adapter changed it, else in the base's format.
        dtype: the base's format.
    """

    name: str
    tensor: torch.Tensor
    dtype: torch.dtype


class UnmergedError(ModelError):
    """The base's files have no place for what the adapter changes."""


class TunedModel:
    """A model in one folder, or a base model and a LoRA adapter.

    Args:
        folder: with config.json and the weights.
        adapter: the adapter's folder.

    Attributes:
        tied: weights that are another's, and that other.
        untied: those of them that the adapter makes their own.
        absent: weights of the model that cannot be had from the files one by one.

    Raises:
        ModelError: a folder cannot be read, or the adapter is of a kind that cannot be merged.
    """

    def __init__(self, folder: Path, adapter: Path | None = None, trust_remote_code: bool = False) -> None:
        self.folder, self.adapter, self.trust_remote_code = folder, adapter, trust_remote_code
        self.config: PretrainedConfig = loading.load_config(folder, trust_remote_code)
        self.stored = Numbers(folder, self.config)
        # What is written from here on are numbers, whatever they are stored as.
        self.config.__dict__.pop("quantization_config", None)
        self._conversion = Conversion(self.stored, self.meta_model())
        self._stored_as = {inside: name for name, inside in self._conversion.names.items()}
        meta_model = self.meta_model()
        self.tied: dict[str, str] = dict(meta_model.all_tied_weights_keys)
        self.absent = _absent(meta_model, self._conversion)
        self._layers: dict[str, Any] = {}
        self._replaced: dict[str, torch.Tensor] = {}
        if adapter:
            self._read_adapter(meta_model, adapter)
        changed = self._layers.keys() | self._replaced.keys()
        self.untied = {target: source for target, source in self.tied.items() if changed & {target, source}}
        if self.untied:
            self._untie(self.config)

    @property
    def own_files(self) -> Path:
        """The folder with the tokenizer and what else the training left."""
        return self.adapter or self.folder

    def meta_model(self) -> PreTrainedModel:
        """The model without memory for its weights."""
        return loading.meta_model(self.config, self.trust_remote_code)

    def weights(self) -> Iterator[Weight]:
        """All weights as the files have them, one at a time."""
        cut = {part: inside for inside in self._layers for part in self._conversion.parts.get(inside, ())}
        for name in self.stored:
            if name in cut:
                if name == self._conversion.parts[cut[name]][0]:
                    yield from self._parts(cut[name])
                continue
            inside = self._conversion.names.get(name)
            if inside is None:
                tensor = self.stored.read(name)
                yield Weight(name, tensor, tensor.dtype)
            else:
                yield replace(self._weight(inside), name=name)
        yield from map(self._weight, self._unstored())

    def model_weights(self, without: Collection[str] = ()) -> Iterator[Weight]:
        """All weights as the model has them, one at a time.

        Args:
            without: names in the model of weights that are left out.
        """
        for inside in (*self._stored_as, *self._conversion.parts, *self._unstored()):
            if inside not in without:
                yield self._weight(inside)

    def _unstored(self) -> list[str]:
        """Weights that are one tensor in the base's files; two, once the adapter has changed one of them."""
        return [target for target in self.untied if target not in self._stored_as]

    def load(self) -> PreTrainedModel:
        """The model in the base's format; what the adapter left alone stays mapped from the files."""
        dtype = self.config.get_text_config().dtype or torch.float32
        model = loading.hollow(self.config, dtype, self.trust_remote_code)
        state = {weight.name: weight.tensor.to(dtype) for weight in self.model_weights()}
        for target, source in self.tied.items():
            if target not in state and source in state:
                state[target] = state[source]
        for name, weight in model.state_dict().items():
            if name not in state and weight.is_meta:
                raise ModelError(
                    f"{self.folder}: the model's weight {name} is not in its files as such, so this model "
                    "cannot be read weight by weight"
                )
            state.setdefault(name, weight)  # a buffer, which the model makes itself
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        return model.requires_grad_(False).eval()

    def load_in(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model to answer with: to the last bit the one that the merged folder holds."""
        model = loading.load_weights(self.folder, dtype, self.trust_remote_code)
        for target, source in self.untied.items():
            path, _, last = target.rpartition(".")
            own = torch.nn.Parameter(model.get_parameter(source).detach().clone())
            setattr(model.get_submodule(path), last, own)
        if self.untied:
            self._untie(model.config)
        for inside in self._layers.keys() | self._replaced.keys():
            weight = self._weight(inside)
            parameter = model.get_parameter(inside)
            parameter.data = weight.tensor.to(weight.dtype).to(parameter.dtype, copy=True)
        return model

    @staticmethod
    def _untie(config: PretrainedConfig) -> None:
        config.get_text_config().tie_word_embeddings = False
        config.tie_word_embeddings = False

    def _weight(self, inside: str) -> Weight:
        """The weight of that name in the model, with the adapter in it."""
        source = inside if inside in self._stored_as else self.tied.get(inside, inside)
        joined = source in self._conversion.parts
        tensor = self._conversion.join(source) if joined else self.stored.read(self._stored_as[source])
        dtype = tensor.dtype
        if inside in self._replaced:
            tensor = self._replaced[inside].float()
        if inside in self._layers:
            tensor = _merged(self._layers[inside], tensor)
        return Weight(inside, tensor, dtype)

    def _parts(self, inside: str) -> Iterator[Weight]:
        """A weight that the files hold in parts, in parts."""
        whole = self._weight(inside)
        for name, tensor in self._conversion.split(inside, whole.tensor).items():
            yield Weight(name, tensor, whole.dtype)

    def _read_adapter(self, meta_model: PreTrainedModel, adapter: Path) -> None:
        from peft.tuners.lora import LoraLayer

        config = read_lora_config(adapter)
        # peft moves adapters to where the base weights are: in memory, in fp32, and of no size.
        hollow = torch.zeros(())
        for module in meta_model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(hollow.expand(parameter.shape), requires_grad=False))
        inner = adapters.apply_lora(meta_model, config, adapter).get_base_model()
        for path, module in inner.named_modules():
            if isinstance(module, LoraLayer):
                plain = path.replace(".base_layer", "")
                self._layers[f"{plain}.{getattr(module, 'parameter_name', 'weight')}"] = module
        for name, parameter in inner.named_parameters():
            # What has got memory of its own came from the adapter: whole modules, or biases.
            if parameter.data_ptr() != hollow.data_ptr() and ".lora_" not in name:
                plain = name.replace(".modules_to_save.default", "").replace(".base_layer", "")
                self._replaced[plain] = parameter.detach()
        there = self._stored_as.keys() | self._conversion.parts.keys()
        for name in self._layers.keys() | self._replaced.keys():
            if not {name, self.tied.get(name)} & there:
                raise UnmergedError(
                    f"{adapter}: the adapter changes {name}, but the files of {self.folder} hold no weight "
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


def is_at_hand(folder: Path) -> bool:
    """Whether `find_tuned` would have to download nothing; raises ModelError as that does."""
    if kind_of(folder) != "adapter":
        return has_weights(folder)
    return Path(str(read_lora_config(folder).base_model_name_or_path)).is_dir()


def read_lora_config(folder: Path) -> LoraConfig:
    """The adapter's configuration. Raises ModelError where it is not a LoRA adapter that can be merged."""
    config = read_config(folder)
    if reason := why_not_merged(config):
        raise ModelError(f"{folder}: {reason}")
    return cast("LoraConfig", config)


@torch.no_grad()
def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """The base weight with the layer's adapter in it, in fp32."""
    inner, name = layer.get_base_layer(), getattr(layer, "parameter_name", "weight")
    hollow = getattr(inner, name)
    setattr(inner, name, torch.nn.Parameter(weight.float(), requires_grad=False))
    try:
        layer.merge(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"the adapter cannot be merged: {first_line(error)}") from error
    merged: torch.Tensor = getattr(inner, name).detach()
    setattr(inner, name, hollow)
    layer.merged_adapters.clear()  # so that it can be merged again
    return merged


def absent_weights(meta_model: PreTrainedModel, stored: StoredWeights | None) -> list[str]:
    """Weights of the model that cannot be had from the files one by one: transformers cuts them from others.

    Args:
        stored: the model's files; None: they are not there yet, and the architecture tells.
    """
    return (
        sorted(cut_from_others(meta_model))
        if stored is None
        else _absent(meta_model, Conversion(stored, meta_model))
    )


def _absent(meta_model: PreTrainedModel, conversion: Conversion) -> list[str]:
    there = {*conversion.names.values(), *conversion.parts, *meta_model.all_tied_weights_keys}
    return sorted(name for name, _ in meta_model.named_parameters() if name not in there)
