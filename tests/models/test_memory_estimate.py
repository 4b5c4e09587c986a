"""The estimate of a training's memory, held against what training takes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

WIDTH, LAYERS, VOCABULARY, ROWS, POSITIONS = 256, 6, 16000, 4, 512


def sizes() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=688,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
    )


def resident(line: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith(line)).split()[1]) * 1024


def grown_by_training(use_lora: bool, gradient_checkpointing: bool, answers: Any) -> None:
    """What a process grows by when it trains; the model's own code, fp32."""
    import torch
    from transformers import LlamaForCausalLM

    from llm_finetune.models.adapters import LoraPlan, add_adapters
    from llm_finetune.objectives.log_probs import label_log_probs

    torch.set_num_threads(1)
    before = resident("VmRSS:")
    model = LlamaForCausalLM(sizes())
    if use_lora:
        model = add_adapters(model, LoraPlan(8, 16, 0.1, ("q_proj", "v_proj")))
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    for _ in range(2):
        ids = torch.randint(0, VOCABULARY, (ROWS, POSITIONS))
        labels = torch.where(torch.arange(POSITIONS) < POSITIONS // 2, -100, ids)
        places = torch.arange(POSITIONS).repeat(ROWS, 1)
        (-label_log_probs(model, ids, places, labels).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    answers.put(resident("VmHWM:") - before)


@pytest.mark.parametrize(
    ("use_lora", "gradient_checkpointing"), [(True, False), (True, True), (False, False)]
)
def test_the_estimate_is_near_what_training_takes(use_lora: bool, gradient_checkpointing: bool) -> None:
    import torch

    from llm_finetune.kernels.precision import Precision
    from llm_finetune.models.adapters import LoraPlan, add_adapters
    from llm_finetune.models.loading import meta_model
    from llm_finetune.models.memory_estimate import training_need

    model = meta_model(sizes(), False)
    need = training_need(
        add_adapters(model, LoraPlan(8, 16, 0.1, ("q_proj", "v_proj"))) if use_lora else model,
        Precision(torch.float32, autocast=False),
        positions=ROWS * POSITIONS,
        labels=ROWS * POSITIONS // 2,
        gradient_checkpointing=gradient_checkpointing,
        whole_logits=True,
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peft", "transformers.models.llama", "llm_finetune.objectives.log_probs"])
    answers = context.Queue()
    process = context.Process(target=grown_by_training, args=(use_lora, gradient_checkpointing, answers))
    process.start()
    grown = answers.get(timeout=200)
    process.join()
    estimated = need.total - need.process
    assert 0.6 * grown < estimated < 1.6 * grown


def test_least_is_what_no_batch_size_can_lower() -> None:
    import torch

    from llm_finetune.kernels.precision import Precision
    from llm_finetune.models.loading import meta_model
    from llm_finetune.models.memory_estimate import training_need

    model, fp32 = meta_model(sizes(), False), Precision(torch.float32, autocast=False)
    small, large = (
        training_need(
            model, fp32, positions=size, labels=size, gradient_checkpointing=False, whole_logits=True
        )
        for size in (1, 10_000)
    )
    assert small.least == large.least < large.total
    assert small.least >= 16 * model.num_parameters()  # weight, gradient and two moments of 4 bytes each
