"""What a training takes in memory, estimated from the model on the meta device, before any weight is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from llm_finetune.kernels.precision import Precision
from llm_finetune.kernels.training.output_head import CHUNK_BYTES, MAX_SAVED_BYTES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FP32_BYTES = 4
# Python, torch, transformers and their libraries, as measured once they are loaded.
PROCESS_BYTES = 700_000_000
# What a decoder layer keeps of each position for its backward pass: so many vectors of the hidden size (in
# the norms, which compute in fp32, around attention and before each product) and of the intermediate size.
HIDDEN_VECTORS, INTERMEDIATE_VECTORS = 16, 5
# Logits as the head writes them, in fp32, their exponentials, and the gradient of each.
LOGIT_COPIES = 4


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one process.

    Attributes:
        process: interpreter and libraries.
        weights: of the model, adapters among them.
        gradients: of what is trained.
        optimizer: AdamW's two moments.
        activations: what the forward pass keeps for the backward pass.
        logits: of the labeled positions.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def least(self) -> int:
        """What no batch size can lower."""
        return self.process + self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.least + self.activations + self.logits

    def parts(self) -> dict[str, int]:
        """The largest first."""
        return dict(sorted(asdict(self).items(), key=lambda part: -part[1]))


def training_need(
    model: PreTrainedModel,
    precision: Precision,
    *,
    positions: int,
    labels: int,
    gradient_checkpointing: bool,
    whole_logits: bool,
) -> MemoryNeed:
    """The need of a training step; activations are an estimate, all else is counted.

    Args:
        model: on the meta device, with its adapters where it has them; what is trained requires a gradient.
        positions: of a batch.
        labels: how many of them are trained on.
        gradient_checkpointing: layers keep their inputs alone, and one layer at a time all.
        whole_logits: of all labels at once, as the model's own head makes them.
    """
    config = model.config.get_text_config()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    width = precision.weights.itemsize
    a_layer = positions * _kept_values(config) * (2 if precision.autocast else width)
    layers = config.num_hidden_layers
    activations = a_layer * layers
    if gradient_checkpointing:
        activations = a_layer + layers * positions * config.hidden_size * width
    head = model.get_output_embeddings()
    is_trained = head is not None and any(weight.requires_grad for weight in head.parameters())
    logits = LOGIT_COPIES * labels * config.vocab_size * FP32_BYTES
    if not whole_logits:
        logits = min(logits, LOGIT_COPIES * CHUNK_BYTES + is_trained * MAX_SAVED_BYTES)
    return MemoryNeed(
        process=PROCESS_BYTES,
        weights=frozen * width + trained * FP32_BYTES,
        gradients=trained * FP32_BYTES,
        optimizer=2 * trained * FP32_BYTES,
        activations=activations,
        logits=logits,
    )


def _kept_values(config: PretrainedConfig) -> int:
    """Values a layer keeps of one position."""
    hidden = int(config.hidden_size)
    named = getattr(config, "intermediate_size", None) or 4 * hidden
    intermediate = max(named) if isinstance(named, list) else int(named)  # some have one a layer
    return HIDDEN_VECTORS * hidden + INTERMEDIATE_VECTORS * intermediate
