"""LoRA adapters: their target modules, and adding or loading them with peft."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.errors import ModelError
from llm_finetune.models.adapter_config import changes_base, check_patterns, first_line, read_config

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftConfig, PeftModel
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraPlan:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        target_parameters: weights that are no layers of their own, as stacked experts.
        rslora: scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732).
        dora: decompose weights into magnitude and direction (Liu et al. 2024, arXiv 2402.09353).
    """

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    rslora: bool = False
    dora: bool = False
    target_parameters: tuple[str, ...] = ()


def check_targets(model: PreTrainedModel, targets: tuple[str, ...]) -> None:
    """Raises ModelError where a name matches no linear layer; peft alone would silently train the others.

    Args:
        model: one on the meta device is enough.
        targets: names as peft takes them: a module's last name, or the end of its path.
    """
    if targets == (ALL_LINEAR,):
        return
    linear = _linear_layers(model)
    names = sorted({path.rsplit(".", 1)[-1] for path in linear})
    problems = [
        f"distributed.train.loraTargetModules: {name!r} names no linear layer of this model{meant} "
        f"(it has {' '.join(names)}, or write {ALL_LINEAR})"
        for name, meant in unmatched(targets, linear, names)
    ]
    if problems:
        raise ModelError(problems)


def unmatched(
    wanted: Iterable[str], paths: Collection[str], names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """The names that end none of the paths, each with the words that say which of `names` are near."""
    for name in wanted:
        if not any(f".{path}".endswith(f".{name}") for path in paths):
            near = difflib.get_close_matches(name, names, n=2)
            yield name, f"; did you mean {' or '.join(near)}?" if near else ""


def add_adapters(model: PreTrainedModel, plan: LoraPlan) -> PeftModel:
    """The model with trainable adapters in fp32 and everything else frozen.

    Raises:
        ModelError: the plan cannot be had on this model.
    """
    from peft import LoraConfig, TaskType

    targets = ALL_LINEAR if plan.target_modules == (ALL_LINEAR,) else list(plan.target_modules)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=targets,
        target_parameters=list(plan.target_parameters) or None,
        use_rslora=plan.rslora,
        use_dora=plan.dora,
    )
    # Adapters stay in fp32 above a bf16 base: their updates are too small for bf16's 8 bits of fraction.
    with next(model.parameters()).device:  # on the meta device they take no memory, which may not be there
        try:
            return apply_peft(model, config, autocast_adapter_dtype=True)
        except ValueError as error:
            key = {"lora_dropout": "loraDropout", "DoRA": "useDora"}
            named = next((key[name] for name in key if name in str(error)), "loraTargetModules")
            raise ModelError(
                f"distributed.train.{named}: not with this adapter, which goes to weights that are no layers "
                f"of their own, as stacked experts ({first_line(error)}); write 0, or false, or other targets"
            ) from error


def apply_peft(model: torch.nn.Module, config: PeftConfig, **options: bool) -> PeftModel:
    """peft's get_peft_model, without its look for layers of neural-compressor, which nothing here makes.

    To look, peft imports all of that package: seconds, warnings, and a folder in the working directory.
    """
    from peft import get_peft_model

    with _without_neural_compressor():
        return get_peft_model(model, config, **options)


@contextmanager
def _without_neural_compressor() -> Iterator[None]:
    """peft thinks so while the body runs."""
    from peft.tuners.lora import inc
    from peft.utils import quantization_utils

    looks = [(module, module.is_inc_available) for module in (inc, quantization_utils)]
    for module, _ in looks:
        module.is_inc_available = lambda: False
    try:
        yield
    finally:
        for module, look in looks:
            module.is_inc_available = look


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with the adapter of a folder put onto it, to be used and not trained.

    Raises:
        ModelError: the adapter is broken, pickled, or belongs to another model.
    """
    from peft import LoraConfig

    config = read_config(folder)
    if isinstance(config, LoraConfig):
        return apply_lora(model, config, folder)
    config.inference_mode = True
    _check_there(folder)
    try:
        tuned = apply_peft(model, config)
        # peft's PeftModel.from_pretrained does the same, but only warns of weights that are amiss.
        read = tuned.load_adapter(str(folder), "default")
    except Exception as error:  # of the many that there are, peft and safetensors share no class
        raise _unfit(folder, first_line(error)) from error
    if strange := sorted([*read.missing_keys, *read.unexpected_keys]):
        raise _unfit(folder, f"{len(strange)} weights are in one of them alone, first {strange[0]}")
    return tuned


def apply_lora(model: PreTrainedModel, config: LoraConfig, folder: Path) -> PeftModel:
    """The model with a LoRA adapter of a folder, in fp32: all that it holds and nothing else.

    Raises:
        ModelError: see `load_adapter`.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    _check_there(folder)
    check_patterns(config, [name for name, _ in model.named_modules()], folder)
    config.inference_mode = True
    # How the matrices began is of no account where the file brings them, unless the base was changed with it.
    is_filled = not changes_base(config)
    if is_filled:
        config.init_lora_weights = True
    try:
        tensors = load_file(folder / WEIGHTS)
        tensors = {name: t.float() if ".lora_" in name else t for name, t in tensors.items()}
        if not is_filled and config.r > max(size for tensor in tensors.values() for size in tensor.shape):
            raise ValueError(f"r: found {config.r}, which no weight of it has")
        tuned = apply_peft(model, config, low_cpu_mem_usage=is_filled)
        read = set_peft_model_state_dict(tuned, tensors, low_cpu_mem_usage=is_filled)
    except Exception as error:  # of the many that there are, peft and safetensors share no class
        raise _unfit(folder, first_line(error)) from error
    missing = set(read.missing_keys) & {name for name, _ in _of_adapter(tuned)}
    empty = [name for name, weight in tuned.named_parameters() if weight.is_meta]
    if strange := sorted({*missing, *empty, *read.unexpected_keys}):
        raise _unfit(folder, f"{len(strange)} weights are in one of them alone, first {strange[0]}")
    if broken := [name for name, weight in _of_adapter(tuned) if not weight.isfinite().all()]:
        raise _unfit(folder, f"{broken[0]} holds NaN or infinity")
    return tuned


def _of_adapter(tuned: PeftModel) -> list[tuple[str, torch.Tensor]]:
    return [(name, weight) for name, weight in tuned.named_parameters() if ".default" in name]


def _check_there(folder: Path) -> None:
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS}; expected the adapter's weights beside its configuration")


def _unfit(folder: Path, why: str) -> ModelError:
    return ModelError(f"{folder}: the adapter cannot be read, or does not fit its base model: {why}")


def set_base_model(model: PeftModel, name_or_path: str, revision: str | None) -> None:
    """Writes the base model as the user named it into the adapter, which so loads by itself elsewhere.

    Args:
        name_or_path: a Hub name, or a folder (stored as an absolute path).
        revision: branch, tag or commit on the Hub.
    """
    folder = Path(name_or_path)
    for config in model.peft_config.values():
        config.base_model_name_or_path = str(folder.resolve()) if folder.is_dir() else name_or_path
        config.revision = revision


def _linear_layers(model: PreTrainedModel) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
