"""TEQ (Cheng et al. 2023, arXiv 2310.10944): like AWQ, but the scales are trained, on the whole model's loss.

The whole model is in memory, in fp32, with what its backward pass needs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch
from transformers import PreTrainedModel

from llm_finetune.errors import ModelError
from llm_finetune.model.codes import QuantizedWeight, Scheme
from llm_finetune.quantization.blocks import LINEAR, Block, find_blocks, record_calls
from llm_finetune.quantization.nearest import round_to_nearest
from llm_finetune.quantization.scaling import scalable

log = logging.getLogger(__name__)

LEARNING_RATE = 1e-2
STEPS = 256
STEPS_BETWEEN_REPORTS = 32


def teq(
    model: PreTrainedModel, scheme: Scheme, texts: Sequence[Sequence[int]]
) -> Iterator[tuple[str, QuantizedWeight | torch.Tensor]]:
    """The linear layers of the decoder blocks, and the weights of the norms that pass a scale on to them.

    Raises:
        ModelError: no norm of this architecture can.
    """
    model.float()
    groups = _scalable_in(model, texts[0])
    linears = [
        f"{block}.{path}"
        for block, module in find_blocks(model)
        for path, part in module.named_modules()
        if isinstance(part, LINEAR)
    ]
    _train_scales(model, scheme, groups, linears, texts)
    for path in linears:
        if isinstance(model.get_submodule(path), torch.nn.Linear):
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
        raise ModelError(
            f"TEQ: no norm of a {model.config.model_type} model can pass a scale on to its linear layers; "
            "write GPTQ or RTN (distributed.quantize.woqAlgo)"
        )
    return groups


def _train_scales(
    model: PreTrainedModel,
    scheme: Scheme,
    groups: dict[str, list[str]],
    linears: list[str],
    texts: Sequence[Sequence[int]],
) -> None:
    """Trains the scales, a text a step, and works them into norms and weights."""
    from neural_compressor.torch.algorithms.weight_only.teq import TrainableEquivalentTransformation

    each = {
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "scheme": "sym" if scheme.symmetric else "asym",
    }
    transformation = TrainableEquivalentTransformation(
        model, weight_config={path: dict(each) for path in linears}, absorb_to_layer=groups
    )
    transformation.add_tuning_scale()
    optimizer = torch.optim.Adam(transformation.trained_alphas.values(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    for step, text in enumerate(islice(cycle(texts), STEPS), start=1):
        input_ids = torch.tensor([list(text)])
        loss = model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % STEPS_BETWEEN_REPORTS == 0:
            log.info("training the scales: step %d of %d, loss %.4f", step, STEPS, loss.item())
    transformation.transform()
