"""One instance of the benchmark: a process on cores of its own that loads a model and answers from it.

python -m llm_finetune.inference_benchmark.instance ORDER DESCRIPTOR    started by `benchmark_processes`
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_finetune.errors import UserError
from llm_finetune.host.memory import peak_memory_bytes
from llm_finetune.inference_benchmark.benchmark import check_context
from llm_finetune.inference_benchmark.processes import Order
from llm_finetune.runtime.logging import configure
from llm_finetune.runtime.parent_death import exit_with_parent

if TYPE_CHECKING:
    from llm_finetune.generation.load import ModelFolder

PROGRESS_SECONDS = 1.0


def main(order_json: str, descriptor: str) -> int:
    """Loads the model, describes it, measures on request; returns the exit code."""
    exit_with_parent()
    order = Order(**json.loads(order_json))
    # Before torch is there: its threads inherit the CPU affinity of this one.
    os.sched_setaffinity(0, order.cores)
    configure("warning", rank=0)
    try:
        _serve(order, Connection(int(descriptor)))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _serve(order: Order, connection: Connection) -> None:
    from llm_finetune.generation.decoding import context_length
    from llm_finetune.generation.load import load_folder

    loaded = load_folder(Path(order.folder), trust_remote_code=order.trust_remote_code)
    model = loaded.model
    check_context(order.prompt_tokens, context_length(model))
    connection.send(_described(loaded))
    prompt = _made_up_prompt(order.prompt_tokens, model.config.get_text_config().vocab_size)
    for measure in (
        prefill_seconds(model, prompt),
        decode_seconds(model, prompt, order.warmup + order.iterations),
    ):
        connection.recv()  # the word to begin
        seconds = _after_warmup(measure, order, connection)
        connection.send({"seconds": seconds, "peak_memory_bytes": peak_memory_bytes()})


def prefill_seconds(model: Any, prompt: list[int]) -> Iterator[float]:
    """Seconds from a prompt to the first token of its answer, again and again."""
    from llm_finetune.generation.decoding import decode

    while True:
        started = time.perf_counter()
        next(decode(model, [prompt], max_new_tokens=1))
        yield time.perf_counter() - started


def decode_seconds(model: Any, prompt: list[int], tokens: int) -> Iterator[float]:
    """Seconds of each token after the first; where an answer fills the model's context, a new one begins."""
    from llm_finetune.generation.decoding import decode

    while True:
        answer = decode(model, [prompt], max_new_tokens=tokens + 1)
        next(answer)  # reads the prompt
        started = time.perf_counter()
        for _ in answer:
            yield time.perf_counter() - started
            started = time.perf_counter()


def weight_bytes_per_token(model: Any) -> int:
    """Bytes of weights that a decoded token reads.

    All parameters and buffers as they stand in memory, packed ones packed; of an embedding one row, unless it
    is the output head too. Of a mixture of experts all count, though a token reads a few.
    """
    from torch.nn import Embedding

    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    head = getattr(model.get_output_embeddings(), "weight", None)
    total: int = sum(tensor.nbytes for tensor in tensors.values())
    for module in model.modules():
        if isinstance(module, Embedding) and module.weight is not head:
            total -= module.weight.nbytes - module.weight.nbytes // module.num_embeddings
    return total


def _after_warmup(seconds: Iterator[float], order: Order, connection: Connection) -> list[float]:
    measured: list[float] = []
    reported = time.monotonic()
    for done, took in enumerate(islice(seconds, order.warmup + order.iterations), 1):
        if done > order.warmup:
            measured.append(took)
        if time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            connection.send(done)
    return measured


def _described(loaded: ModelFolder) -> dict[str, Any]:
    import torch

    from llm_finetune.quantization.linear import kernels_of

    return {
        "weight_bytes_per_token": weight_bytes_per_token(loaded.model),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "kernel": kernels_of(loaded.model) or "torch",
    }


def _made_up_prompt(tokens: int, vocabulary: int) -> list[int]:
    """Token ids spread over the vocabulary: speed depends on their number, not on the text."""
    return [(7919 * position) % vocabulary for position in range(1, tokens + 1)]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
