"""report.html: one page that says how a run went, from the result files beside it.

It opens from a disk: style and drawings are within it, it loads nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import RootModel

from llm_finetune.config import load
from llm_finetune.evaluation.result import EvaluationResult
from llm_finetune.inference_benchmark.result import BenchmarkResult, Speed
from llm_finetune.pipeline.run_record import RunRecord
from llm_finetune.quantization.result import QuantizationResult
from llm_finetune.report.charts import Chart, Points, chart
from llm_finetune.report.tables import quality, speed
from llm_finetune.runtime import formatting
from llm_finetune.storage.result import Result
from llm_finetune.training.result import TrainingHistory, TrainingResult

TEMPLATE = "report.html.jinja"
Json = dict[str, Any]


@dataclass(frozen=True)
class Headline:
    """A figure for the top of the page.

    Attributes:
        before: what it was without fine-tuning, or without quantization.
        note: what it is of.
    """

    name: str
    before: str
    figure: str
    unit: str
    note: str


@dataclass(frozen=True)
class Setting:
    """A key below `distributed`, its value and the chart's."""

    key: str
    value: str
    default: str


class ReportPage(Result, RootModel[str]):
    """The page as HTML."""

    file_name = "report.html"

    def to_text(self) -> str:
        """See `Result`."""
        return self.root

    @classmethod
    def from_text(cls, text: str) -> Self:
        """See `Result`."""
        return cls(text)


@dataclass(frozen=True)
class Found:
    """The results in a folder; None or empty for what was not measured."""

    run: RunRecord | None
    training: TrainingResult | None
    history: TrainingHistory | None
    evaluation: EvaluationResult | None
    quantization: QuantizationResult | None
    speeds: dict[str, Speed]

    @classmethod
    def read(cls, folder: Path) -> Found:
        """Reads them all."""
        benchmark = BenchmarkResult.read(folder)
        return cls(
            RunRecord.read(folder),
            TrainingResult.read(folder),
            TrainingHistory.read(folder),
            EvaluationResult.read(folder),
            QuantizationResult.read(folder),
            benchmark.root if benchmark else {},
        )


def make_report(output_dir: Path) -> ReportPage:
    """The page for the result files in the folder. What was not measured is not on it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # prompts and answers are anybody's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return ReportPage(environment.get_template(TEMPLATE).render(_contents(Found.read(output_dir))))


def _contents(found: Found) -> Json:
    values: Json = dict(found.run.settings) if found.run else {}
    settings = list(_settings(values))
    tables = (quality(found.evaluation), speed(found.evaluation, found.quantization, found.speeds))
    return {
        "model": values.get("modelNameOrPath", "a model"),
        "facts": dict(_facts(values, found.training)),
        "headlines": list(_headlines(found)),
        "charts": list(_charts(found.history)),
        "tables": [table for table in tables if table],
        "samples": found.evaluation.samples if found.evaluation else [],
        "changed": [setting for setting in settings if setting.value != setting.default],
        "settings": settings,
        "versions": found.run.versions if found.run else {},
    }


def _facts(values: Json, training: TrainingResult | None) -> Iterator[tuple[str, str]]:
    train = values.get("train")
    if train:
        yield "Data", train.get("datasetName") or train.get("dataFile")
        lora = f"LoRA of rank {train.get('loraRank')} on {formatting.setting(train.get('loraTargetModules'))}"
        yield "Trained", lora if train.get("useLora") else "all weights"
    if training:
        rows = training.sequences_per_step
        yield "Steps", f"{training.steps:,}" + (f" of {rows} sequences" if rows else "")


def _headlines(found: Found) -> Iterator[Headline]:
    base, tuned = (found.evaluation.base, found.evaluation.tuned) if found.evaluation else (None, None)
    if scores := tuned or base:
        before = formatting.number(base.perplexity) if base and tuned else ""
        after = formatting.number(scores.perplexity)
        yield Headline("Perplexity", before, after, "", "on validation records")
    if training := found.training:
        seconds, rate = formatting.duration(training.seconds), formatting.number(training.tokens_per_second)
        yield Headline("Training", "", seconds, "", f"{training.steps:,} steps")
        yield Headline("Training speed", "", rate, "tokens/s", "of records, without padding")
        memory = formatting.size(training.peak_memory_bytes)
        yield Headline("Peak memory", "", memory, "", "of a process, while training")
    if quantization := found.quantization:
        before = formatting.size(quantization.unquantized_size_bytes)
        after = formatting.size(quantization.size_bytes)
        note = f"{quantization.algorithm}, {quantization.bits} bits"
        yield Headline("Quantized", before, after, "", note)
    rates = {name: formatting.number(one.decode_tokens_per_second) for name, one in found.speeds.items()}
    if rates:
        before = rates.get("tuned", "") if len(rates) > 1 else ""
        model, rate = list(rates.items())[-1]
        yield Headline("Decoding", before, rate, "tokens/s", f"the {model} model")


def _charts(history: TrainingHistory | None) -> Iterator[Chart]:
    def curve(name: str) -> Points:
        values = [(point.step, getattr(point, name)) for point in (history.root if history else [])]
        return [(step, value) for step, value in values if value is not None]

    drawn = (
        chart("Loss", {"training": curve("loss"), "validation": curve("eval_loss")}, mean=True),
        chart("Learning rate", {"learning rate": curve("learning_rate")}, from_zero=True),
        chart("Tokens a second", {"tokens a second": curve("tokens_per_second")}, mean=True, from_zero=True),
    )
    yield from (one for one in drawn if one)


def _settings(values: Json) -> Iterator[Setting]:
    """The settings of the run, each beside the chart's."""
    default = dict(_leaves(load([]).settings.to_values()))
    for key, value in _leaves(values):
        yield Setting(key, formatting.setting(value), formatting.setting(default.get(key)))


def _leaves(tree: Json, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
