"""Selects the optimizations that a model supports; each is verified against the original model before use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from llm_finetune.errors import ModelError
from llm_finetune.kernels.equivalence_check import on_trial
from llm_finetune.kernels.precision import Precision
from llm_finetune.kernels.training import attention, layers, lora
from llm_finetune.kernels.training.output_head import FusedLinearCrossEntropyHead

log = logging.getLogger(__name__)

Switch = Literal["auto", "on", "off"]
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest relative difference of a model's log-probabilities; rounding adds up layer by layer."""
GRADIENT_FACTOR = 4
"""A gradient passes all layers twice, so its tolerance is this many times larger."""

# Log-probabilities of labels, from input_ids, position_ids and labels, each of shape (rows, positions).
Ask = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# Installs an optimization in a model and returns the function that removes it.
Put = Callable[[Any], Callable[[], None]]
# Outputs and gradients of a model, by name.
Outcome = dict[str, torch.Tensor]
TRIAL_LENGTHS = (5, 3, 8)
# The key of each optimization in the settings.
KEYS = {"attention": "packedAttention", "head": "fusedCrossEntropy", "layers": "fusedLayers"}


@dataclass(frozen=True)
class Switches:
    """Which optimizations to enable: "auto" where outputs are equal, "on" to require it, or "off"."""

    attention: Switch = "auto"
    head: Switch = "auto"
    layers: Switch = "auto"


def optimize_model(
    model: Any, switches: Switches, ask: Ask, *, ignored: int, precision: Precision | None = None
) -> None:
    """Enables fast attention, output head and layers where outputs and gradients stay the same.

    Args:
        model: a causal language model of transformers, without adapters.
        ask: computes the model's log-probabilities of labels, as the objective does.
        ignored: the label of positions that are not trained.
        precision: of the run; None: the dtype of the weights.

    Raises:
        ModelError: a switch is "on", and the model does not support it.
    """
    ways = {"attention": _attention, "head": _head, "layers": _layers}
    taken: list[str] = []
    plain: list[str] = []
    trial = _trial(model.config.get_text_config().vocab_size, ignored)

    precision = precision or Precision(model.dtype, autocast=False)
    tolerance = TOLERANCES.get(torch.bfloat16 if precision.autocast else model.dtype, 0.05)

    def asked() -> torch.Tensor:
        with precision.context():
            return ask(*trial)

    def outcome() -> Outcome:
        return _outcome(model, asked)

    with _frozen(model):
        expected = outcome()
        for name, put in ways.items():
            switch = getattr(switches, name)
            if switch == "off":
                continue
            reason = _try(model, put, outcome, expected, tolerance)
            (plain if reason else taken).append(f"{name} ({reason})" if reason else name)
            if reason and switch == "on":
                raise ModelError(
                    f"distributed.train.optimizations.{KEYS[name]}: found on, but this model does not "
                    f"support it: {reason}; write auto"
                )
    if taken:
        log.info("optimizations enabled: %s (outputs verified against the original model)", ", ".join(taken))
    if plain:
        log.info("optimizations not enabled: %s", "; ".join(plain))


def optimize_lora_layers(model: torch.nn.Module, switch: Switch) -> None:
    """Fuses each LoRA layer that peft created with its base layer.

    Raises:
        ModelError: the switch is "on", and no layer can be fused.
    """
    if switch == "off":
        return
    count = lora.install(model)
    if switch == "on" and not count:
        raise ModelError(
            "distributed.train.optimizations.fusedLora: found on, but no adapter is a plain LoRA; write auto"
        )
    log.info("optimizations enabled: fused LoRA on %d layers", count)


class _RefusedError(Exception):
    """The model lacks the part that the optimization replaces."""


def _try(model: Any, put: Put, outcome: Callable[[], Outcome], expected: Outcome, tolerance: float) -> str:
    """Enable an optimization; returns why it was not enabled, or an empty string."""
    try:
        take_back = put(model)
    except _RefusedError as refusal:
        return str(refusal)
    try:
        found = outcome()
    except Exception as error:  # whatever a model's own code raises at arguments it does not know
        take_back()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    reason = _differing(found, expected, tolerance)
    if reason:
        take_back()
    return reason


def _outcome(model: Any, ask: Callable[[], torch.Tensor]) -> Outcome:
    """Outputs in evaluation and in training mode, and the gradient of the latter by the embeddings."""
    with on_trial(model, training=False), torch.no_grad():
        outcome = {"outputs": ask()}
    embedded: list[torch.Tensor] = []

    def begin_here(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(begin_here)
    try:
        with on_trial(model, training=True), torch.enable_grad():
            outcome["outputs in training"] = ask()
            (outcome["gradient"],) = torch.autograd.grad(outcome["outputs in training"].sum(), embedded)
    finally:
        handle.remove()
    return outcome


def _differing(found: Outcome, expected: Outcome, tolerance: float) -> str:
    """Describes the first difference beyond the tolerance; empty where there is none."""
    for what, right in expected.items():
        wide, other = right.detach().double().flatten(), found[what].detach().double().flatten()
        difference = float((other - wide).norm() / wide.norm())
        if not difference <= tolerance * (GRADIENT_FACTOR if what == "gradient" else 1):
            return f"its {what} would differ by {difference:.1%}"
    return ""


def _attention(model: Any) -> Callable[[], None]:
    before = model.config._attn_implementation
    attention.register()
    model.set_attn_implementation(attention.NAME)
    if model.config._attn_implementation != attention.NAME:
        raise _RefusedError("its code implements its own")
    return lambda: model.set_attn_implementation(before)


def _head(model: Any) -> Callable[[], None]:
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise _RefusedError(f"it is a {type(head).__name__}, not a Linear")
    if not _ends_with_head(model, head):
        raise _RefusedError("the model caps or scales its logits")
    FusedLinearCrossEntropyHead.of(head)

    def take_back() -> None:
        head.__class__ = torch.nn.Linear

    return take_back


def _ends_with_head(model: Any, head: torch.nn.Module) -> bool:
    """Whether the head's output is the model's output, tried with logits that any soft cap would change."""
    vocab_size = model.config.get_text_config().vocab_size
    large = torch.linspace(-60, 60, vocab_size, dtype=model.dtype).view(1, 1, -1)
    handle = head.register_forward_hook(lambda layer, inputs, output: large)
    with torch.no_grad(), on_trial(model, training=False):
        try:
            logits = model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False).logits
        finally:
            handle.remove()
    return torch.equal(logits, large)


def _layers(model: Any) -> Callable[[], None]:
    counts = layers.install(model)
    if not any(counts.values()):
        raise _RefusedError("none is supported, or there is no C++ compiler")
    return lambda: layers.remove(model)


def _trial(vocab_size: int, ignored: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two rows of records, the second in another order; every token is a label but the first of a record."""
    positions = torch.cat([torch.arange(length) for length in TRIAL_LENGTHS])
    position_ids = torch.stack([positions, positions.roll(TRIAL_LENGTHS[-1])])
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, vocab_size, position_ids.shape, generator=generator)
    return input_ids, position_ids, input_ids.masked_fill(position_ids == 0, ignored)


@contextmanager
def _frozen(model: torch.nn.Module) -> Iterator[None]:
    """Within the body no weight gets a gradient, which would be as large as the weight."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
