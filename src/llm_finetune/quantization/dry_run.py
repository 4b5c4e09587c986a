"""Whether an algorithm can quantize a model, tried before training on a small twin of random weights.

Whether layers may be replaced, whether blocks hand on their hidden states one to the next, and which norms
can pass a scale on, is decided by an architecture's code and not by its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear
from transformers import GenerationConfig

from llm_finetune.errors import ModelError
from llm_finetune.models.tiny_model import twin
from llm_finetune.models.unstacked_experts import unstack
from llm_finetune.quantization.decoder_blocks import Block, find_blocks, record_calls
from llm_finetune.quantization.quantized_model import is_linear
from llm_finetune.quantization.scale_absorption import TOLERANCE, scalable, unscalable

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

TEXT = (3, 7, 1, 9, 4, 5, 11, 2)
THREE_TOKENS = GenerationConfig(min_new_tokens=3, max_new_tokens=3, do_sample=False, pad_token_id=0)
SCALED = ("AWQ", "TEQ")


def rehearse(
    config: PretrainedConfig, algorithm: str, trust_remote_code: bool
) -> dict[str, list[str]] | None:
    """What the algorithm finds in the model: for each norm that can pass a scale on the layers that get it.

    Args:
        algorithm: RTN, GPTQ, AWQ or TEQ.

    Returns:
        Paths in the model; empty for RTN and GPTQ. None: there can be no twin, and the model itself tells.

    Raises:
        ModelError: the algorithm cannot quantize such a model, or what it would leave could not answer.
    """
    try:
        small = twin(config, trust_remote_code).eval().requires_grad_(False)
    except Exception:  # whatever a model's own code raises at sizes that it was not made for
        return None
    kind = config.model_type
    with _refused(f"a {kind} model cannot be quantized", "write distributed.doQuantize=false"):
        expected = _answer(small)
        unstack(small)
        _check_replaceable(copy.deepcopy(small), expected)
    if algorithm == "RTN":
        return {}
    with _refused(f"{algorithm} cannot quantize a {kind} model", "write RTN (distributed.quantize.woqAlgo)"):
        return _walk(small, algorithm)


@contextmanager
def _refused(what: str, instead: str) -> Iterator[None]:
    """The body uses the model's parts one by one; whatever its own code raises then is why it is refused."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{what} ({reason}); {instead}") from error


@torch.no_grad()
def _check_replaceable(model: PreTrainedModel, expected: torch.Tensor) -> None:
    """Raises where the model wants more of its linear layers than their products.

    Args:
        expected: its answer as it is; the model itself has not run yet, when it may change its layers.
    """
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if is_linear(module) and module is not head:
            model.set_submodule(path, _Opaque(module))
    found = _answer(model)
    if not (found - expected).norm() <= TOLERANCE * expected.norm():
        raise ValueError("its outputs change when its linear layers are replaced by equal ones")


class _Opaque(torch.nn.Module):
    """A linear layer as a quantized one is: it multiplies, and has no weight that could be looked at."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self._parts = (plain.weight if isinstance(plain, torch.nn.Linear) else plain.weight.T, plain.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs, *self._parts)


def _walk(model: PreTrainedModel, algorithm: str) -> dict[str, list[str]]:
    calls = record_calls(model, [TEXT], hidden_of_all=True)
    groups: dict[str, list[str]] = {}
    before: torch.Tensor | None = None
    for (path, module), of_block in zip(find_blocks(model), calls, strict=True):
        block = Block(path, module, of_block)
        hidden = block.calls[0].hidden
        assert hidden is not None
        if before is not None and not (hidden - before).norm() <= TOLERANCE * hidden.norm():
            raise ValueError("its blocks do not hand on their hidden states from one to the next")
        before = block.run(block.calls[0])
        if algorithm in SCALED:
            found = scalable(block)
            groups |= {f"{path}.{norm}": [f"{path}.{one}" for one in ones] for norm, ones in found.items()}
    if algorithm in SCALED and not groups:
        raise unscalable(algorithm, model.config.model_type)
    return groups


def _answer(model: Any) -> torch.Tensor:
    """What the model says of a text as a whole, and of tokens that it then reads one by one."""
    ids = torch.tensor([TEXT])
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    tokens = model.generate(ids, generation_config=THREE_TOKENS)
    return torch.cat([logits.flatten(), tokens.flatten().float()])
