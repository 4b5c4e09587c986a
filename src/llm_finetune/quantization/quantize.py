"""Weight-only quantization of a tuned model: writes a quantized folder and evaluates its perplexity."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from llm_finetune.config import QuantizeSettings
from llm_finetune.data import Split
from llm_finetune.errors import ModelError, SettingsError
from llm_finetune.models import loading
from llm_finetune.models.experts import share_of
from llm_finetune.models.merging import TunedModel
from llm_finetune.models.safetensors_io import ShardWriter, StoredWeights
from llm_finetune.models.unstacked_experts import Stack, unstack
from llm_finetune.quantization.awq import awq
from llm_finetune.quantization.dry_run import rehearse
from llm_finetune.quantization.gptq import gptq
from llm_finetune.quantization.linear import kernels_of
from llm_finetune.quantization.packed_weights import QuantizedWeight, Scheme
from llm_finetune.quantization.quantized_model import (
    DESCRIPTION,
    Description,
    features,
    is_linear,
    load_quantized,
)
from llm_finetune.quantization.result import QuantizationResult
from llm_finetune.quantization.rtn import round_to_nearest
from llm_finetune.quantization.teq import teq
from llm_finetune.storage.atomic_directory import (
    atomic_directory,
    check_replaceable,
    copy_auxiliary_files,
    write_config,
)

log = logging.getLogger(__name__)

# Dimensions of a weight that holds many matrices.
STACKED = 3
# A warning names the weights that stay unquantized where they are at least this share of all.
MIN_REPORTED_SHARE = 0.05

PerplexityOf = Callable[[PreTrainedModel], float]
Results = Iterator[tuple[str, QuantizedWeight | torch.Tensor]]


def quantize(
    tuned: TunedModel,
    settings: QuantizeSettings,
    texts: Sequence[Sequence[int]],
    perplexity: PerplexityOf | None = None,
) -> QuantizationResult:
    """Writes the quantized model to settings.output_dir, which is replaced once the new one is complete.

    Every linear layer but the output head is quantized; output head and embeddings keep their format.

    Args:
        tuned: the model to quantize.
        texts: token ids of training records, for GPTQ, AWQ and TEQ; RTN needs none.
        perplexity: evaluates the quantized model; None: it is not evaluated.

    Raises:
        UserError: see `check_quantization`.
    """
    started = time.perf_counter()
    algorithm, scheme = settings.woq_algo, scheme_of(settings)
    output = Path(settings.output_dir)
    check_weights(tuned.absent, tuned.folder)
    meta_model = tuned.meta_model()
    stacks = unstack(meta_model)
    layers = quantizable_layers(meta_model)
    if algorithm != "RTN" and not texts:
        raise _no_texts(algorithm)
    log.info("quantizing %s with %s, %d bits", tuned.own_files, algorithm, scheme.bits)
    if (output / DESCRIPTION).is_file():
        log.warning("%s: the quantized model there is replaced once the new one is complete", output)
    size_bytes = size_of(meta_model, tuned.stored, scheme, layers)
    with atomic_directory(output, size_bytes, replaces=DESCRIPTION) as aside:
        writer = ShardWriter(aside)
        _write_weights(writer, tuned, layers, stacks, scheme, _results(algorithm, tuned, scheme, texts))
        writer.finish()
        copy_auxiliary_files([tuned.folder, tuned.own_files], aside, code=tuned.trust_remote_code)
        write_config(tuned.config, aside, code=tuned.trust_remote_code)
        name = "sym" if scheme.symmetric else "asym"
        Description(algorithm, scheme.bits, scheme.group_size, name, tuple(sorted(layers))).write(aside)
    seconds = time.perf_counter() - started
    model = load_quantized(output, trust_remote_code=tuned.trust_remote_code)
    result = QuantizationResult(
        algorithm=algorithm,
        bits=scheme.bits,
        group_size=scheme.group_size,
        scheme=name,
        kernel=kernels_of(model),
        perplexity=perplexity(model) if perplexity else None,
        size_bytes=StoredWeights(output).size_bytes,
        unquantized_size_bytes=tuned.stored.size_bytes,
        seconds=seconds,
    )
    log.info("quantized: %s, run by %s", _sizes(result), result.kernel)
    return result


def check_quantization(
    settings: QuantizeSettings,
    config: PretrainedConfig,
    tuned: Path,
    *,
    has_records: bool = True,
    trust_remote_code: bool = False,
) -> None:
    """Checks before training that the quantization can be done.

    Args:
        config: of the model.
        tuned: where the model to quantize is, or will be.
        has_records: there are some to calibrate with.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        SettingsError: the settings contradict each other.
        ModelError: the model has no linear layers, or the algorithm cannot quantize it.
        OutputError: outputDir holds something else, or cannot be written.
    """
    scheme, output, algorithm = scheme_of(settings), Path(settings.output_dir), settings.woq_algo
    if scheme.bits == 1 and scheme.symmetric:
        raise SettingsError(
            "distributed.quantize.woqScheme: 1 bit holds two values, which cannot lie around zero; "
            "write asym, or more bits"
        )
    if tuned.resolve().is_relative_to(output.resolve()):
        raise SettingsError(
            f"distributed.quantize.outputDir: {output} holds the model itself; name another folder"
        )
    if algorithm != "RTN" and not has_records:
        raise _no_texts(algorithm)
    meta_model = loading.meta_model(config, trust_remote_code)
    unstack(meta_model)
    if warning := unquantized_part(meta_model):
        log.warning("%s", warning)
    quantizable_layers(meta_model)
    groups = rehearse(config, algorithm, trust_remote_code)
    if groups and algorithm == "AWQ" and not _has_whole_groups(meta_model, groups, scheme):
        raise SettingsError(
            f"distributed.quantize.woqGroupSize: AWQ scales layers whose rows are whole groups, and no row "
            f"of this model is a multiple of {scheme.group_size}; write one that "
            f"divides {config.get_text_config().hidden_size}, or -1"
        )
    check_replaceable(output, replaces=DESCRIPTION)


def check_weights(absent: Sequence[str], folder: Path) -> None:
    """Raises ModelError where the model's files lack weights that are to be quantized one by one.

    Args:
        absent: see `TunedModel`.
    """
    if absent:
        raise ModelError(
            f"{folder}: its files hold {absent[0]} as one with others, so this model cannot be quantized "
            "weight by weight; write distributed.doQuantize=false"
        )


def _no_texts(algorithm: str) -> SettingsError:
    return SettingsError(
        f"distributed.quantize.woqAlgo: {algorithm} needs training records, and there are none"
    )


def scheme_of(settings: QuantizeSettings) -> Scheme:
    """The format that the settings ask for."""
    return Scheme(settings.woq_bits, settings.woq_group_size, settings.woq_scheme == "sym")


def size_of(
    meta_model: PreTrainedModel, stored: StoredWeights, scheme: Scheme, layers: dict[str, torch.nn.Module]
) -> int:
    """Estimated bytes of the quantized model: codes and scales of the layers, other weights unchanged."""
    shapes = [features(layer) for layer in layers.values()]
    codes = sum(out * scheme.row_bytes(length) for out, length in shapes)
    weights: int = meta_model.num_parameters()
    rest = weights - sum(out * length for out, length in shapes)
    return codes + rest * stored.size_bytes // weights


def quantizable_layers(meta_model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear layers by their paths, without the output head, as neural-compressor does by default.

    Args:
        meta_model: on the meta device, with experts unstacked into linear layers.
    """
    head = meta_model.get_output_embeddings()
    layers = {
        path: module
        for path, module in meta_model.named_modules()
        if is_linear(module) and module is not head
    }
    if not layers:
        raise ModelError(
            f"a {meta_model.config.model_type} model has no linear layers that could be quantized"
        )
    return layers


def unquantized_part(meta_model: PreTrainedModel) -> str | None:
    """A warning that names the large part of the model that stays unquantized; None where there is none.

    Args:
        meta_model: on the meta device, with experts unstacked into linear layers.
    """
    left = {name for name, weight in meta_model.named_parameters() if weight.dim() == STACKED}
    share = share_of(meta_model, left)
    if share < MIN_REPORTED_SHARE:
        return None
    kind = meta_model.config.model_type
    return (
        f"distributed.doQuantize: {min(left)} and its like are no linear layers in the code of {kind}; "
        f"{share:.0%} of its weights are not quantized"
    )


def _has_whole_groups(meta_model: PreTrainedModel, groups: dict[str, list[str]], scheme: Scheme) -> bool:
    """Whether a layer that a norm can pass a scale on to has rows of whole groups."""
    rows = {features(meta_model.get_submodule(paths[0]))[1] for paths in groups.values()}
    return any(length % scheme.group_in(length) == 0 for length in rows)


def calibration_texts(split: Split, count: int) -> list[list[int]]:
    """Token ids of up to `count` records, evenly from the whole split.

    Records of one token carry no information and are skipped.
    """
    rows = min(len(split), count)
    picked = [split[math.floor(number * len(split) / rows)] for number in range(rows)]
    records = [s.input_ids.tolist() for row in picked for s in row.samples if len(s.input_ids) > 1]
    step = max(1, len(records) / count)
    return [records[math.floor(number * step)] for number in range(min(count, len(records)))]


def _results(algorithm: str, tuned: TunedModel, scheme: Scheme, texts: Sequence[Sequence[int]]) -> Results:
    """What the algorithm makes of the model: layers by their paths, and other weights that it changed."""
    if algorithm == "RTN":
        return iter(())
    with_texts = {"GPTQ": gptq, "AWQ": awq, "TEQ": teq}[algorithm]
    model = tuned.load()
    unstack(model)
    return with_texts(model, scheme, texts)


def _write_weights(
    writer: ShardWriter,
    tuned: TunedModel,
    layers: dict[str, torch.nn.Module],
    stacks: dict[str, Stack],
    scheme: Scheme,
    results: Results,
) -> None:
    """The results, then the rest: linear layers rounded to nearest, other weights as they are."""
    done: set[str] = set()
    for name, value in results:
        if isinstance(value, QuantizedWeight):
            _add(writer, name, value)
            done.add(f"{name}.weight")
        else:
            writer.add(name, value)
            done.add(name)
    cut_up = {name for name, stack in stacks.items() if done.issuperset(stack.names)}
    for weight in tuned.model_weights(without=done | cut_up):
        stack = stacks.get(weight.name)
        for name, tensor in stack.cut(weight.tensor) if stack else [(weight.name, weight.tensor)]:
            path = name.removesuffix(".weight")
            if name in done:
                continue
            if path in layers and path != name:
                is_transposed = not isinstance(layers[path], torch.nn.Linear)
                _add(writer, path, round_to_nearest(tensor.T if is_transposed else tensor, scheme))
            else:
                writer.add(name, tensor.to(weight.dtype))


def _add(writer: ShardWriter, path: str, weight: QuantizedWeight) -> None:
    writer.add(f"{path}.codes", weight.codes)
    writer.add(f"{path}.scales", weight.scales)
    if weight.zero_points is not None:
        writer.add(f"{path}.zeros", weight.zero_points)


def _sizes(result: QuantizationResult) -> str:
    share = result.size_bytes / result.unquantized_size_bytes
    return f"{result.size_bytes / 1e6:,.1f} MB, {share:.0%} of {result.unquantized_size_bytes / 1e6:,.1f} MB"
