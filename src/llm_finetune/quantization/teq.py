"""TEQ (Cheng et al. 2023, arXiv 2310.10944): like AWQ, but the scales are trained, on the whole model.

Two things differ from neural-compressor's class of that name, which made every model tried worse than plain
rounding. Its gradients pass straight through the rounding, as if a group's step did not depend on the group's
range; here they include it. And the scales are trained to match the outputs of the original model instead of
the texts, so that they do not learn the texts' content.

The whole model is in memory, in fp32, with what its backward pass needs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from llm_finetune.quantization.decoder_blocks import Block, find_blocks, record_calls
from llm_finetune.quantization.packed_weights import QuantizedWeight, Scheme
from llm_finetune.quantization.quantized_model import is_linear
from llm_finetune.quantization.rtn import round_to_nearest
from llm_finetune.quantization.scale_absorption import scalable, unscalable

log = logging.getLogger(__name__)

LEARNING_RATE = 1e-2
STEPS = 32
TEXTS_A_STEP = 4
STEPS_BETWEEN_REPORTS = 4
SMALLEST_SCALE = 1e-5


def teq(
    model: PreTrainedModel, scheme: Scheme, texts: Sequence[Sequence[int]]
) -> Iterator[tuple[str, QuantizedWeight | torch.Tensor]]:
    """The linear layers of the decoder blocks, and the weights of the norms that pass a scale on to them.

    Raises:
        ModelError: no norm of this architecture can.
    """
    model.float().requires_grad_(False)
    groups = _scalable_in(model, texts[0])
    linears = [
        f"{block}.{path}"
        for block, module in find_blocks(model)
        for path, part in module.named_modules()
        if is_linear(part) and isinstance(part, torch.nn.Linear)
    ]
    _absorb(model, groups, _train_scales(model, scheme, groups, linears, texts))
    for path in linears:
        yield path, round_to_nearest(model.get_submodule(path).weight.data, scheme)
    for norm in groups:
        for name, parameter in model.get_submodule(norm).named_parameters():
            yield f"{norm}.{name}", parameter.data


def _scalable_in(model: PreTrainedModel, text: Sequence[int]) -> dict[str, list[str]]:
    """For each norm that can pass a scale on the linear layers that get it, by their paths in the model."""
    calls = record_calls(model, [text], hidden_of_all=True)
    groups = {}
    for (path, module), of_block in zip(find_blocks(model), calls, strict=True):
        for norm, linears in scalable(Block(path, module, of_block)).items():
            groups[f"{path}.{norm}"] = [f"{path}.{linear}" for linear in linears]
    if not groups:
        raise unscalable("TEQ", model.config.model_type)
    return groups


def _train_scales(
    model: PreTrainedModel,
    scheme: Scheme,
    groups: dict[str, list[str]],
    linears: list[str],
    texts: Sequence[Sequence[int]],
) -> dict[str, torch.nn.Parameter]:
    """A scale for each norm, shape (width,)."""
    scales = {
        norm: torch.nn.Parameter(torch.ones_like(model.get_parameter(f"{norm}.weight"))) for norm in groups
    }
    scale_of = {path: scales[norm] for norm, paths in groups.items() for path in paths}
    originals: dict[str, torch.nn.Linear] = {path: model.get_submodule(path) for path in linears}
    rounded = {path: _Rounded(linear, scheme, scale_of.get(path)) for path, linear in originals.items()}
    optimizer = torch.optim.Adam(scales.values(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    supply = cycle(texts)
    for step in range(1, STEPS + 1):
        total = 0.0
        for layer in rounded.values():
            layer.round()
        for text in islice(supply, TEXTS_A_STEP):
            input_ids = torch.tensor([list(text)])
            with torch.no_grad():
                wanted = _log_probs(model, input_ids)
            _put(model, rounded)
            found = _log_probs(model, input_ids)
            _put(model, originals)
            loss = functional.kl_div(found, wanted, log_target=True, reduction="batchmean")
            # The rounding is the same for all texts of a step.
            torch.autograd.backward(loss / TEXTS_A_STEP, retain_graph=True)
            total += loss.item() / TEXTS_A_STEP
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % STEPS_BETWEEN_REPORTS == 0:
            log.info("training the scales: step %d of %d, divergence %.4f", step, STEPS, total)
    return scales


class _Rounded(torch.nn.Module):
    """A linear layer as it will be: its inputs divided by the scale, its weights multiplied and rounded."""

    def __init__(self, linear: torch.nn.Linear, scheme: Scheme, scale: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.linear, self.scheme, self.scale = linear, scheme, scale
        if scale is None:
            self.rounded = _fake_rounded(linear.weight, scheme)

    def round(self) -> None:
        """Rounds the weights again, for the current scale."""
        if self.scale is not None:
            self.rounded = _fake_rounded(self.linear.weight * self.scale.clip(SMALLEST_SCALE), self.scheme)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.scale is not None:
            inputs = inputs / self.scale.clip(SMALLEST_SCALE)
        return functional.linear(inputs, self.rounded, self.linear.bias)


def _fake_rounded(weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """The rounded weight, in which each error is a fixed share of its group's range.

    The gradient of that share is taken as 0, as straight-through estimators do (Bengio et al. 2013,
    arXiv 1308.3432); that of the range is exact.
    """
    error = round_to_nearest(weight.detach(), scheme).dequantize(torch.float32) - weight.detach()
    ranges = _ranges(weight, scheme)
    return weight + error * (ranges / ranges.detach().clip(min=torch.finfo(torch.float32).tiny))


def _ranges(weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """The range of each weight's group, shape (out, in)."""
    out_features, in_features = weight.shape
    size = scheme.group_in(in_features)
    # The last group's own values fill it up, which leaves its range as it is.
    missing = -in_features % size
    filled = torch.cat([weight, weight[:, -1:].expand(-1, missing)], dim=1) if missing else weight
    groups = filled.view(out_features, -1, size)
    if scheme.symmetric:
        ranges = groups.abs().amax(-1, keepdim=True)
    else:
        ranges = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    return ranges.expand_as(groups).reshape(out_features, -1)[:, :in_features]


def _log_probs(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Shape (tokens, vocabulary)."""
    logits: torch.Tensor = model(input_ids=input_ids, use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def _put(model: PreTrainedModel, modules: Mapping[str, torch.nn.Module]) -> None:
    for path, module in modules.items():
        model.set_submodule(path, module)


@torch.no_grad()
def _absorb(
    model: PreTrainedModel, groups: dict[str, list[str]], scales: dict[str, torch.nn.Parameter]
) -> None:
    """Divides the norms, and multiplies the weights of the layers that read them."""
    for norm, linears in groups.items():
        scale = scales[norm].clip(SMALLEST_SCALE)
        for parameter in model.get_submodule(norm).parameters():
            parameter.div_(scale)
        for path in linears:
            model.get_parameter(f"{path}.weight").mul_(scale)
