"""Checks before the model loads whether training fits into memory, and suggests what to lower."""

from __future__ import annotations

import logging
from functools import partial

from transformers import PreTrainedModel

from llm_finetune.config import TrainSettings
from llm_finetune.errors import SettingsError
from llm_finetune.host.memory import memory_limit
from llm_finetune.kernels.precision import Precision
from llm_finetune.models.memory_estimate import MemoryNeed, training_need
from llm_finetune.runtime.formatting import size

log = logging.getLogger(__name__)

# The estimate of the activations is no more precise than this.
WARN_FRACTION = 0.9


def choose_checkpointing(
    meta_model: PreTrainedModel,
    settings: TrainSettings,
    precision: Precision,
    *,
    row_positions: float,
    row_labels: float,
    processes: int,
) -> bool:
    """Chooses gradient checkpointing and logs the estimated memory, as a warning where it is scarce.

    Args:
        meta_model: the model on the meta device, with adapters where these are trained.
        row_positions: mean positions of a row, padding included.
        row_labels: mean positions of a row that have a label.
        processes: number of processes that share this machine.

    Returns:
        Whether to recompute activations in the backward pass.

    Raises:
        SettingsError: weights, gradients and optimizer alone exceed the available memory.
    """
    rows = settings.per_device_batch_size
    need_if = partial(
        training_need,
        meta_model,
        precision,
        positions=round(rows * row_positions),
        labels=round(rows * row_labels),
        whole_logits=settings.optimizations.fused_cross_entropy == "off",
    )
    limit = memory_limit()
    checkpointing = settings.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = need_if(gradient_checkpointing=False).total * processes > WARN_FRACTION * limit
        if checkpointing:
            log.info("gradient checkpointing enabled: not enough memory to keep all activations")
    need = need_if(gradient_checkpointing=checkpointing)
    estimate = f"{_describe_need(need, processes)} of {size(limit)} available"
    if need.least * processes > limit:
        raise SettingsError(
            f"not enough memory: training takes about {estimate}; {_remedy(settings, need, precision)}"
        )
    if need.total * processes > WARN_FRACTION * limit:
        log.warning("estimated memory for training: %s; %s", estimate, _remedy(settings, need, precision))
    else:
        log.info("estimated memory for training: %s", estimate)
    return checkpointing


def _describe_need(need: MemoryNeed, processes: int) -> str:
    parts = ", ".join(f"{name} {size(part)}" for name, part in need.parts().items() if part)
    several = f" in each of {processes} processes" if processes > 1 else ""
    return f"{size(need.total)}{several} ({parts})"


def _remedy(settings: TrainSettings, need: MemoryNeed, precision: Precision) -> str:
    """The keys that help most, given the largest part that can be lowered."""
    remedies = []
    if not settings.use_lora:
        remedies.append("useLora: true")
    elif precision.weights.itemsize > 2:
        remedies.append("bf16: auto on a processor that has it")
    if need.activations + need.logits > need.total / 4:
        half = max(1, settings.per_device_batch_size // 2)
        if half < settings.per_device_batch_size:
            remedies.append(
                f"perDeviceBatchSize: {half} with gradientAccumulationSteps: "
                f"{settings.gradient_accumulation_steps * settings.per_device_batch_size // half}"
            )
        if settings.gradient_checkpointing is False:
            remedies.append("gradientCheckpointing: auto")
        remedies.append(f"a maxSeqLength below {settings.max_seq_length}")
    remedies.append("a smaller model, or more memory")
    return f"below distributed.train try {', or '.join(remedies)}"
