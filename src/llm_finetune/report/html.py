"""report.html: one page that says how a run went, from the result files beside it.

It opens from a disk: style and drawings are within it, it loads nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm_finetune.config import load
from llm_finetune.report.charts import Chart, Points, chart
from llm_finetune.report.tables import quality, speed
from llm_finetune.runtime import formatting
from llm_finetune.storage import results
from llm_finetune.storage.result_schemas import read_result

REPORT = "report.html"
TEMPLATE = "report.html.jinja"
FILES = {
    "run": results.RUN,
    "training": results.TRAIN,
    "history": results.HISTORY,
    "evaluation": results.EVAL,
    "quantization": results.QUANTIZE,
    "benchmark": results.BENCHMARK,
}

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


def write_report(output_dir: Path) -> Path:
    """Writes report.html from the result files in the folder. What was not measured is not on the page.

    Returns:
        The page.
    """
    found: Json = {name: read_result(output_dir / file) for name, file in FILES.items()}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # prompts and answers are anybody's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page, html = output_dir / REPORT, environment.get_template(TEMPLATE).render(_contents(**found))
    results.write_page(page, html)
    return page


def _contents(
    run: Json, training: Json, history: list[Json], evaluation: Json, quantization: Json, benchmark: Json
) -> Json:
    values = run.get("settings", {})
    settings = list(_settings(values))
    tables = (quality(evaluation), speed(evaluation, quantization, benchmark))
    return {
        "model": values.get("modelNameOrPath", "a model"),
        "facts": dict(_facts(values, training)),
        "headlines": list(_headlines(training, evaluation, quantization, benchmark)),
        "charts": list(_charts(history)),
        "tables": [table for table in tables if table],
        "samples": evaluation.get("samples", []),
        "changed": [setting for setting in settings if setting.value != setting.default],
        "settings": settings,
        "versions": run.get("versions", {}),
    }


def _facts(values: Json, training: Json) -> Iterator[tuple[str, str]]:
    train = values.get("train")
    if train:
        yield "Data", train.get("datasetName") or train.get("dataFile")
        lora = f"LoRA of rank {train.get('loraRank')} on {formatting.setting(train.get('loraTargetModules'))}"
        yield "Trained", lora if train.get("useLora") else "all weights"
    if training:
        rows = training.get("sequences_per_step")
        yield "Steps", f"{training['steps']:,}" + (f" of {rows} sequences" if rows else "")


def _headlines(training: Json, evaluation: Json, quantization: Json, benchmark: Json) -> Iterator[Headline]:
    base, tuned = evaluation.get("base"), evaluation.get("tuned")
    if judged := tuned or base:
        before = formatting.number(base["perplexity"]) if base and tuned else ""
        after = formatting.number(judged["perplexity"])
        yield Headline("Perplexity", before, after, "", "on validation records")
    if training:
        seconds, rate = (
            formatting.duration(training["seconds"]),
            formatting.number(training["tokens_per_second"]),
        )
        yield Headline("Training", "", seconds, "", f"{training['steps']:,} steps")
        yield Headline("Training speed", "", rate, "tokens/s", "of records, without padding")
        memory = formatting.size(training["peak_memory_bytes"])
        yield Headline("Peak memory", "", memory, "", "of a process, while training")
    if quantization:
        before, after = (
            formatting.size(quantization[key]) for key in ("unquantized_size_bytes", "size_bytes")
        )
        note = f"{quantization['algorithm']}, {quantization['bits']} bits"
        yield Headline("Quantized", before, after, "", note)
    rates = {
        name: formatting.number(figure["decode_tokens_per_second"]) for name, figure in benchmark.items()
    }
    if rates:
        before = rates["tuned"] if len(rates) > 1 else ""
        model, rate = list(rates.items())[-1]
        yield Headline("Decoding", before, rate, "tokens/s", f"the {model} model")


def _charts(history: list[Json]) -> Iterator[Chart]:
    def curve(key: str) -> Points:
        return [(point["step"], point[key]) for point in history if key in point]

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
