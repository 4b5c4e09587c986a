"""What a benchmark measures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, RootModel

from llm_finetune.storage.result import Result


class Speed(BaseModel):
    """How fast one model answers.

    Attributes:
        prefill_tokens_per_second, decode_tokens_per_second: summed over the instances.
        latency_ms: p50, p90 and p99 of a decoded token, over the tokens of all instances.
        peak_memory_bytes: sum of the instances' largest resident sets.
        weight_bytes_per_token: see `instance.weight_bytes_per_token`.
        memory_bandwidth_bytes_per_second: mean of before and after, all the instances' cores together.
        bandwidth_share: weight_bytes_per_token x decode_tokens_per_second / that bandwidth; it may be above 1
            where the weights fit into the caches.
        cores: of each instance.
        threads: of an instance.
        kernel: what runs the model's linear layers.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float
    latency_ms: dict[str, float] | None = None
    peak_memory_bytes: int | None = None
    weight_bytes_per_token: int | None = None
    memory_bandwidth_bytes_per_second: float
    bandwidth_share: float | None = None
    instances: int
    cores_per_instance: int
    cores: list[list[int]] | None = None
    threads: int | None = None
    dtype: str | None = None
    kernel: str | None = None


class BenchmarkResult(Result, RootModel[dict[str, Speed]]):
    """The speed of each model, by its name: tuned, quantized."""

    file_name = "benchmark_results.json"
