"""How fast a model answers: tokens a second of processes that run at once, each on cores of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_finetune.config import BenchmarkSettings
from llm_finetune.distributed import available_cores, threads_per_process
from llm_finetune.errors import SettingsError
from llm_finetune.host.numa import nodes
from llm_finetune.inference_benchmark.memory_bandwidth import memory_bandwidth
from llm_finetune.inference_benchmark.processes import Order, answers, run, started
from llm_finetune.inference_benchmark.result import BenchmarkResult, Speed

log = logging.getLogger(__name__)

Cores = tuple[int, ...]


def benchmark(
    folders: Mapping[str, Path | None], settings: BenchmarkSettings, *, trust_remote_code: bool = False
) -> BenchmarkResult:
    """Measures one model folder after the other.

    An iteration is one prefill, the reading of `promptTokens` tokens up to the first token of an answer, or
    one decoded token after it; both are measured at batch size 1, `iterations` times after `warmup` times.
    An answer that reaches the end of the model's context gives way to a new one.

    Args:
        folders: by the name that their figures get; None is left out.

    Raises:
        SettingsError: there are not as many cores as the settings ask for.
        ModelError: an instance failed; with its last words.
    """
    shares = shares_of_cores(settings)
    measured = {
        name: _measure(name, folder, shares, settings, trust_remote_code)
        for name, folder in folders.items()
        if folder is not None
    }
    return BenchmarkResult(measured)


def shares_of_cores(settings: BenchmarkSettings) -> list[Cores]:
    """The cores of each instance, near each other, no core twice: of those that this process may use.

    Raises:
        SettingsError: the instances need more than there are.
    """
    there, instances = available_cores(), settings.num_instances
    each = settings.cores_per_instance
    if each == -1:
        each = threads_per_process(there, instances)
    if instances * each > there:
        raise SettingsError(
            f"distributed.benchmark.numInstances: {instances} instances with {_counted(each)} each "
            f"need {instances * each}, but this process may use {there}; "
            "write a smaller numInstances or coresPerInstance"
        )
    cores = [core for node in nodes() for core in node]
    return [tuple(cores[first : first + each]) for first in range(0, instances * each, each)]


def check_context(prompt_tokens: int, context: int | None) -> None:
    """Raises SettingsError where no token could be decoded after the prompt.

    Args:
        context: tokens that the model can take; None: as many as one likes.
    """
    if context is not None and prompt_tokens + 2 > context:
        raise SettingsError(
            f"distributed.benchmark.promptTokens: {prompt_tokens} leaves nothing of the model's context of "
            f"{context} tokens to decode in; write {context - 2} or less"
        )


def _measure(
    name: str, folder: Path, shares: Sequence[Cores], settings: BenchmarkSettings, trust_remote_code: bool
) -> Speed:
    rounds = (settings.warmup, settings.iterations, settings.prompt_tokens)
    orders = [Order(name, str(folder), cores, *rounds, trust_remote_code) for cores in shares]
    all_cores = [core for cores in shares for core in cores]
    log.info("benchmark of the %s model, on cores %s", name, ", ".join(map(str, all_cores)))
    with started(orders) as instances:
        loaded = answers(instances, "loading")
        before = memory_bandwidth(all_cores)
        prefill = run(instances, "prefill")
        decode = run(instances, "decode")
    bandwidth = (before + memory_bandwidth(all_cores)) / 2
    prefill_rate = float(sum(settings.prompt_tokens / np.mean(answer["seconds"]) for answer in prefill))
    decode_rate = float(sum(1 / np.mean(answer["seconds"]) for answer in decode))
    weight_bytes = loaded[0]["weight_bytes_per_token"]
    share_of_bandwidth = weight_bytes * decode_rate / bandwidth
    line = "the %s model reads %.4g and writes %.4g tokens/s, at %.3g of the memory bandwidth"
    log.info(line, name, prefill_rate, decode_rate, share_of_bandwidth)
    return Speed(
        prefill_tokens_per_second=prefill_rate,
        decode_tokens_per_second=decode_rate,
        latency_ms=_percentiles_ms(np.concatenate([answer["seconds"] for answer in decode])),
        peak_memory_bytes=sum(answer["peak_memory_bytes"] for answer in decode),
        weight_bytes_per_token=weight_bytes,
        memory_bandwidth_bytes_per_second=bandwidth,
        bandwidth_share=share_of_bandwidth,
        instances=len(shares),
        cores_per_instance=len(shares[0]),
        cores=[answer["cores"] for answer in loaded],
        **{key: loaded[0][key] for key in ("threads", "dtype", "kernel")},
    )


def _percentiles_ms(seconds: Any) -> dict[str, float]:
    return {f"p{share}": float(np.percentile(seconds, share)) * 1000 for share in (50, 90, 99)}


def _counted(cores: int) -> str:
    return "1 core" if cores == 1 else f"{cores} cores"
