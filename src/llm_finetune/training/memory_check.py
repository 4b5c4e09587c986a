"""How a training fits into memory: said before the model loads, with what to lower."""

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

# The estimate of the activations is not better than that.
CLOSE = 0.9


def choose_checkpointing(
    meta_model: PreTrainedModel,
    settings: TrainSettings,
    precision: Precision,
    *,
    row_positions: float,
    row_labels: float,
    processes: int,
) -> bool:
    """Chooses whether to compute activations again, and says what the training will take.

    Warns where that is close to what there is.

    Args:
        meta_model: the model without its weights, with adapters where they are trained.
        row_positions: of a row, padding among them.
        row_labels: of a row, how many positions are trained on.
        processes: that share this machine.

    Returns:
        Whether activations are to be computed again in the backward pass.

    Raises:
        SettingsError: weights, gradients and optimizer alone are more than there is.
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
        checkpointing = need_if(gradient_checkpointing=False).total * processes > CLOSE * limit
        if checkpointing:
            log.info("gradientCheckpointing: memory is short, so activations are computed again")
    need = need_if(gradient_checkpointing=checkpointing)
    told = f"{_told(need, processes)}; there are {size(limit)}"
    if need.least * processes > limit:
        raise SettingsError(f"not enough memory: training takes {told}; {_remedy(settings, need, precision)}")
    if need.total * processes > CLOSE * limit:
        log.warning("memory is short: training takes %s; %s", told, _remedy(settings, need, precision))
    else:
        log.info("memory: training takes %s", told)
    return checkpointing


def _told(need: MemoryNeed, processes: int) -> str:
    parts = ", ".join(f"{name} {size(part)}" for name, part in need.parts().items() if part)
    several = f" in each of {processes} processes" if processes > 1 else ""
    return f"about {size(need.total)}{several} ({parts})"


def _remedy(settings: TrainSettings, need: MemoryNeed, precision: Precision) -> str:
    """The keys that help most, by the largest part that can be lowered."""
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
