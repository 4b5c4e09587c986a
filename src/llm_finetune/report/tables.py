"""Models side by side: what was measured of each, a row a quantity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llm_finetune.runtime import formatting

Json = dict[str, Any]


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


def quality(evaluation: Json) -> Table | None:
    """What fine-tuning changed, on the validation records."""
    models = [evaluation.get(name) or {} for name in ("base", "tuned")]
    return _table("Base against tuned", ["base", "tuned"], _quality_rows(models), [])


def speed(evaluation: Json, quantization: Json, benchmark: Json) -> Table | None:
    """What quantization changed: size, perplexity and speed; or the speed alone."""
    tuned, quantized = (dict(benchmark.get(name, {})) for name in ("tuned", "quantized"))
    if quantization:
        tuned["size"], quantized["size"] = quantization["unquantized_size_bytes"], quantization["size_bytes"]
        tuned["perplexity"], quantized["perplexity"] = (
            evaluation.get("perplexity"),
            quantization["perplexity"],
        )
    title = "Tuned against quantized" if quantization else "Speed"
    notes = [*_how_quantized(quantization), *_how_measured(benchmark)]
    return _table(title, ["tuned", "quantized"], _speed_rows([tuned, quantized]), notes)


def _quality_rows(models: list[Json]) -> Iterator[Row | None]:
    yield _row("Perplexity", "lower", models, "perplexity", formatting.number)
    yield _row("Loss", "lower", models, "loss", formatting.number)
    yield _row("ROUGE-L", "higher", models, "rouge_l", formatting.percent)
    yield _row("Exact match", "higher", models, "exact_match", formatting.percent)


def _speed_rows(models: list[Json]) -> Iterator[Row | None]:
    yield _row("Size of the model", "lower", models, "size", formatting.size)
    yield _row("Perplexity", "lower", models, "perplexity", formatting.number)
    yield _row("Decoding, tokens/s", "higher", models, "decode_tokens_per_second", formatting.number)
    yield _row("Prefill, tokens/s", "higher", models, "prefill_tokens_per_second", formatting.number)
    latencies = [model.get("latency_ms") or {} for model in models]
    for percentile, words in (("p50", "Median"), ("p90", "p90"), ("p99", "p99")):
        yield _row(f"{words} latency of a token, ms", "lower", latencies, percentile, formatting.number)
    yield _row("Peak memory", "lower", models, "peak_memory_bytes", formatting.size)
    yield _row("Share of memory bandwidth", "higher", models, "bandwidth_share", formatting.percent)


def _table(title: str, names: list[str], rows: Iterator[Row | None], notes: list[str]) -> Table | None:
    """The rows that have a figure and the models that have one; None where nothing was measured."""
    found = [row for row in rows if row]
    there = [at for at in range(len(names)) if any(row.cells[at] for row in found)]
    if not found:
        return None
    kept = [Row(row.name, row.better, [row.cells[at] for at in there]) for row in found]
    return Table(title, [names[at] for at in there], kept, notes)


def _row(name: str, better: str, models: list[Json], key: str, show: Callable[[float], str]) -> Row | None:
    values = [model.get(key) for model in models]
    most = max((value for value in values if value is not None), default=None)
    if most is None:
        return None
    cells = [None if value is None else Cell(show(value), 100 * value / (most or 1)) for value in values]
    return Row(name, better, cells)


def _how_quantized(quantization: Json) -> Iterator[str]:
    if quantization:
        group = quantization.get("group_size", -1)
        parts = [
            f"{quantization['algorithm']}, {quantization['bits']} bits",
            "a scale a row" if group == -1 else f"a scale for {group} weights",
            {"sym": "symmetric", "asym": "asymmetric"}.get(quantization.get("scheme", ""), ""),
            f"run by {quantization['kernel']}" if quantization.get("kernel") else "",
            f"quantized in {formatting.duration(quantization['seconds'])}",
        ]
        yield "Quantized by " + ", ".join(part for part in parts if part) + "."


def _how_measured(benchmark: Json) -> Iterator[str]:
    if benchmark:
        measured = next(iter(benchmark.values()))
        count, cores = measured["instances"], measured["cores_per_instance"]
        bandwidth = formatting.size(measured["memory_bandwidth_bytes_per_second"])
        yield (
            f"Speed at batch size 1, {count} instance{'s' * (count > 1)} with {cores} "
            f"core{'s' * (cores > 1)} each; these cores read {bandwidth}/s from memory."
        )
