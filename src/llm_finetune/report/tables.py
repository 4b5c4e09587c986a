"""Models side by side: what was measured of each, a row a quantity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from llm_finetune.evaluation.metrics import METRICS
from llm_finetune.evaluation.result import EvaluationResult, ModelScores
from llm_finetune.inference_benchmark.result import Speed
from llm_finetune.quantization.result import QuantizationResult
from llm_finetune.runtime import formatting

Model = TypeVar("Model")
Figures = Sequence[float | None]  # of each model; None where it was not measured


@dataclass(frozen=True)
class Cell:
    """A figure, and its part of the largest in its row, in per cent."""

    figure: str
    share: float


@dataclass(frozen=True)
class Row:
    """A quantity.

    Attributes:
        better: which way is better, in a word.
        cells: one for each model; None where it was not measured.
    """

    name: str
    better: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Table:
    """Some models, compared.

    Attributes:
        notes: under what conditions.
    """

    title: str
    models: list[str]
    rows: list[Row]
    notes: list[str]


def quality(evaluation: EvaluationResult | None) -> Table | None:
    """What fine-tuning changed, on the validation records."""
    models = [evaluation.base, evaluation.tuned] if evaluation else []
    return _table("Base against tuned", ["base", "tuned"], _quality_rows(models), [])


def speed(
    evaluation: EvaluationResult | None, quantization: QuantizationResult | None, speeds: Mapping[str, Speed]
) -> Table | None:
    """What quantization changed: size, perplexity and speed; or the speed alone."""
    title = "Tuned against quantized" if quantization else "Speed"
    notes = [*_how_quantized(quantization), *_how_measured(speeds)]
    rows = [*_quantization_rows(evaluation, quantization), *_speed_rows(speeds)]
    return _table(title, ["tuned", "quantized"], rows, notes)


def _quality_rows(models: list[ModelScores | None]) -> Iterator[Row | None]:
    yield _row("Perplexity", "lower", _each(models, lambda model: model.perplexity), formatting.number)
    yield _row("Loss", "lower", _each(models, lambda model: model.loss), formatting.number)
    scores = [model.metrics if model else {} for model in models]
    for metric in METRICS:
        yield _row(metric.title, metric.better, [one.get(metric.key) for one in scores], metric.shown)


def _quantization_rows(
    evaluation: EvaluationResult | None, quantization: QuantizationResult | None
) -> Iterator[Row | None]:
    if quantization:
        sizes: Figures = [quantization.unquantized_size_bytes, quantization.size_bytes]
        yield _row("Size of the model", "lower", sizes, formatting.size)
        perplexities = [evaluation.perplexity if evaluation else None, quantization.perplexity]
        yield _row("Perplexity", "lower", perplexities, formatting.number)


def _speed_rows(speeds: Mapping[str, Speed]) -> Iterator[Row | None]:
    measured = [speeds.get(name) for name in ("tuned", "quantized")]
    decoding = _each(measured, lambda one: one.decode_tokens_per_second)
    prefill = _each(measured, lambda one: one.prefill_tokens_per_second)
    yield _row("Decoding, tokens/s", "higher", decoding, formatting.number)
    yield _row("Prefill, tokens/s", "higher", prefill, formatting.number)
    latencies = [(one and one.latency_ms) or {} for one in measured]
    for percentile, words in (("p50", "Median"), ("p90", "p90"), ("p99", "p99")):
        of_models: Figures = [one.get(percentile) for one in latencies]
        yield _row(f"{words} latency of a token, ms", "lower", of_models, formatting.number)
    memory = _each(measured, lambda one: one.peak_memory_bytes)
    bandwidth = _each(measured, lambda one: one.bandwidth_share)
    yield _row("Peak memory", "lower", memory, formatting.size)
    yield _row("Share of memory bandwidth", "higher", bandwidth, formatting.percent)


def _each(models: Sequence[Model | None], figure: Callable[[Model], float | None]) -> Figures:
    return [None if model is None else figure(model) for model in models]


def _table(title: str, names: list[str], rows: Iterable[Row | None], notes: list[str]) -> Table | None:
    """The rows that have a figure and the models that have one; None where nothing was measured."""
    found = [row for row in rows if row]
    there = [at for at in range(len(names)) if any(row.cells[at] for row in found)]
    if not found:
        return None
    shown = [Row(row.name, row.better, [row.cells[at] for at in there]) for row in found]
    return Table(title, [names[at] for at in there], shown, notes)


def _row(name: str, better: str, values: Figures, show: Callable[[float], str]) -> Row | None:
    most = max((value for value in values if value is not None), default=None)
    if most is None:
        return None
    cells = [None if value is None else Cell(show(value), 100 * value / (most or 1)) for value in values]
    return Row(name, better, cells)


def _how_quantized(quantization: QuantizationResult | None) -> Iterator[str]:
    if quantization:
        group = quantization.group_size
        parts = [
            f"{quantization.algorithm}, {quantization.bits} bits",
            "a scale per row" if group == -1 else f"a scale per {group} weights",
            {"sym": "symmetric", "asym": "asymmetric"}.get(quantization.scheme, ""),
            f"run by {quantization.kernel}" if quantization.kernel else "",
            f"quantized in {formatting.duration(quantization.seconds)}",
        ]
        yield "Quantized by " + ", ".join(part for part in parts if part) + "."


def _how_measured(speeds: Mapping[str, Speed]) -> Iterator[str]:
    if speeds:
        measured = next(iter(speeds.values()))
        count, cores = measured.instances, measured.cores_per_instance
        bandwidth = formatting.size(measured.memory_bandwidth_bytes_per_second)
        yield (
            f"Speed at batch size 1, {count} instance{'s' * (count > 1)} with {cores} "
            f"core{'s' * (cores > 1)} each; these cores read {bandwidth}/s from memory."
        )
