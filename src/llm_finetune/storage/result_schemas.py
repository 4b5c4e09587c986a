"""Result files read again: each must hold what its readers need; what else is in it is not looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from llm_finetune.errors import OutputError
from llm_finetune.storage import results

Figures = dict[str, float]


class TrainSettings(TypedDict, total=False):
    datasetName: str | None
    dataFile: str | None
    useLora: bool
    loraRank: int
    loraTargetModules: list[str] | str | None


class RunSettings(TypedDict, total=False):
    modelNameOrPath: str
    train: TrainSettings


class Run(TypedDict, total=False):
    stages: dict[str, dict[str, Any]]
    deciding: dict[str, Any]
    step_rows: Annotated[int, Field(ge=0)]
    settings: RunSettings
    versions: dict[str, str]


class Training(TypedDict):
    steps: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    sequences_per_step: NotRequired[int]


class Point(TypedDict):
    step: int
    loss: NotRequired[float]
    learning_rate: NotRequired[float]
    tokens_per_second: NotRequired[float]
    eval_loss: NotRequired[float]


class Sample(TypedDict):
    prompt: str
    expected: str
    base: str | None
    tuned: str | None


class Judgment(TypedDict):
    loss: float
    perplexity: float
    rouge_l: NotRequired[float]
    exact_match: NotRequired[float]


class Evaluation(TypedDict):
    perplexity: NotRequired[float]
    base: NotRequired[Judgment | None]
    tuned: NotRequired[Judgment | None]
    samples: NotRequired[list[Sample]]


class Asked(TypedDict):
    prompt: str
    expected: str
    answer: str


class Loss(TypedDict):
    loss: float
    tokens: int


class BaseJudged(TypedDict):
    loss: Loss
    samples: list[Asked]


class Base(TypedDict):
    deciding: dict[str, Any]
    judged: BaseJudged


class Quantization(TypedDict):
    algorithm: str
    bits: int
    perplexity: float | None
    size_bytes: int
    unquantized_size_bytes: int
    seconds: float
    group_size: NotRequired[int]
    scheme: NotRequired[str]
    kernel: NotRequired[str]


class Speed(TypedDict):
    decode_tokens_per_second: float
    memory_bandwidth_bytes_per_second: float
    instances: int
    cores_per_instance: int
    prefill_tokens_per_second: NotRequired[float]
    latency_ms: NotRequired[Figures]
    peak_memory_bytes: NotRequired[int]
    bandwidth_share: NotRequired[float]


SHAPES: dict[str, TypeAdapter[Any]] = {
    results.RUN: TypeAdapter(Run),
    results.TRAIN: TypeAdapter(Training),
    results.HISTORY: TypeAdapter(list[Point]),
    results.BASE: TypeAdapter(Base),
    results.EVAL: TypeAdapter(Evaluation),
    results.QUANTIZE: TypeAdapter(Quantization),
    results.BENCHMARK: TypeAdapter(dict[str, Speed]),
}


def read_result(file: Path) -> Any:
    """What an earlier stage left; empty where it left nothing.

    Raises:
        OutputError: the file is broken: where in it, what was found and what expected.
    """
    try:
        content = read_checked(file)
    except ValueError as error:
        raise OutputError(f"{file}: {error}; delete it and start the same command again") from error
    return {} if content is None else content


def read_checked(file: Path) -> Any:
    """The content of a result file; None where there is none. Raises ValueError where it is broken."""
    try:
        if not file.is_file():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    try:
        SHAPES[file.name].validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        if first["type"] == "missing":
            raise ValueError(f"{where} is missing") from error
        expected = first["msg"].removeprefix("Input should be ")
        raise ValueError(f"{where}: found {str(first['input'])[:60]!r}, expected {expected}") from error
    return content
