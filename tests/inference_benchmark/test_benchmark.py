"""The benchmark with real processes: on cores of their own, all of them or none, and figures that agree."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cli_runner import plant
from llm_finetune.config import BenchmarkSettings
from llm_finetune.distributed import available_cores
from llm_finetune.errors import ModelError, SettingsError
from llm_finetune.inference_benchmark import memory_bandwidth
from llm_finetune.inference_benchmark.benchmark import benchmark, check_context, shares_of_cores
from llm_finetune.inference_benchmark.instance import weight_bytes_per_token
from llm_finetune.inference_benchmark.processes import Order, answers, run, started
from tiny_model import VOCABULARY, tiny_model


def settings(**changes: int) -> BenchmarkSettings:
    keys = {"warmup": 2, "iterations": 5, "promptTokens": 16, "coresPerInstance": -1, "numInstances": 1}
    return BenchmarkSettings(**{**keys, **changes})


@pytest.fixture(scope="module")
def figures(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of two instances where there are two cores; one answer would not hold all iterations.

    Where they are measured lie files that would be run in the place of libraries.
    """
    instances = min(2, available_cores())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(plant(tmp_path_factory.mktemp("called") / "planted"))
        measured = benchmark(
            {"tuned": model_folder, "quantized": None}, settings(numInstances=instances, iterations=120)
        )
        assert not Path("ran").exists()
    figures: dict[str, dict[str, Any]] = json.loads(measured.to_text())
    assert set(figures) == {"tuned"}
    return figures["tuned"]


def test_no_two_instances_share_a_core(figures: dict[str, Any]) -> None:
    assert len(figures["cores"]) == figures["instances"] == min(2, available_cores())
    pinned = [core for cores in figures["cores"] for core in cores]
    assert len(set(pinned)) == len(pinned)
    assert set(pinned) <= os.sched_getaffinity(0)
    assert (
        {len(cores) for cores in figures["cores"]} == {figures["cores_per_instance"]} == {figures["threads"]}
    )


def test_figures_agree_with_each_other(figures: dict[str, Any]) -> None:
    latency = figures["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
    assert figures["prefill_tokens_per_second"] > 0
    rate = figures["weight_bytes_per_token"] * figures["decode_tokens_per_second"]
    expected = rate / figures["memory_bandwidth_bytes_per_second"]
    assert figures["bandwidth_share"] == pytest.approx(expected)
    assert figures["peak_memory_bytes"] > figures["instances"] * figures["weight_bytes_per_token"]


@pytest.mark.parametrize("beyond", ["numInstances", "coresPerInstance"])
def test_more_than_there_is_is_refused_before_anything_loads(tmp_path: Path, beyond: str) -> None:
    """The folder is not there, which the first instance that loads would complain of."""
    with pytest.raises(SettingsError, match=f"this process may use {available_cores()}"):
        benchmark({"tuned": tmp_path / "absent"}, settings(**{beyond: available_cores() + 1}))


@pytest.mark.parametrize(
    ("instances", "each", "sizes"), [(1, -1, [16]), (3, -1, [5, 5, 5]), (4, 4, [4] * 4), (2, 3, [3, 3])]
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, instances: int, each: int, sizes: list[int]
) -> None:
    usable = set(range(8, 24))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: usable)
    monkeypatch.setattr("llm_finetune.inference_benchmark.benchmark.available_cores", lambda: len(usable))
    shares = shares_of_cores(settings(numInstances=instances, coresPerInstance=each))
    assert [len(share) for share in shares] == sizes
    assert len(set().union(*shares)) == sum(sizes)
    assert usable >= set().union(*shares)


@pytest.mark.parametrize("phase", ["loading", "prefill"])
def test_a_killed_instance_is_named_and_the_others_are_ended(model_folder: Path, phase: str) -> None:
    core = min(os.sched_getaffinity(0))
    orders = [Order("tuned", str(model_folder), (core,), 1, 10**9, 16, False)] * 2
    with started(orders) as instances:
        if phase == "prefill":
            answers(instances, "loading")
        instances[1].process.kill()
        instances[1].process.wait()
        with pytest.raises(ModelError, match="tuned model: instance 2 of 2 was killed by SIGKILL"):
            answers(instances, phase) if phase == "loading" else run(instances, phase)
    assert all(instance.process.returncode for instance in instances)


@pytest.mark.parametrize(
    ("folder", "changes", "words"),
    [("empty", {}, "no model in this folder"), ("model", {"promptTokens": 127}, "write 126 or less")],
)
def test_an_instance_that_fails_is_quoted(
    model_folder: Path, tmp_path: Path, folder: str, changes: dict[str, int], words: str
) -> None:
    with pytest.raises(ModelError, match=r"instance 1 of 1 ended with exit code") as raised:
        benchmark({"tuned": model_folder if folder == "model" else tmp_path}, settings(**changes))
    assert words in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_the_prompt_leaves_room_for_a_token_that_is_timed() -> None:
    check_context(126, 128)
    check_context(10**6, None)
    with pytest.raises(SettingsError, match="promptTokens"):
        check_context(127, 128)


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_counts_one_row_unless_it_is_the_head_too(tied: bool) -> None:
    model = tiny_model("llama")
    if tied:
        model.set_output_embeddings(model.get_input_embeddings())
    row = model.get_input_embeddings().weight.nbytes // VOCABULARY
    everything = {weight.data_ptr(): weight.nbytes for weight in (*model.parameters(), *model.buffers())}
    unread = 0 if tied else (VOCABULARY - 1) * row
    assert weight_bytes_per_token(model) == sum(everything.values()) - unread


def test_memory_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr(memory_bandwidth.sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match=r"1024 MiB beside the model"):
        memory_bandwidth.memory_bandwidth([0])
