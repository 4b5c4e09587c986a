"""Runs a model of the Llama family in one native call for each step, for prompts and for each new token.

For each token transformers calls some hundred modules and concatenates each layer's keys and values. Here the
cache is allocated once, which leaves reading the weights (for a token) and multiplying (for a prompt).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from transformers import DynamicCache

from llm_finetune.kernels.inference.library import Layer, Matrix, Model, library
from llm_finetune.kernels.inference.packing import VECTOR
from llm_finetune.kernels.training.output_head import FusedLinearCrossEntropyHead
from llm_finetune.quantization.linear import UnpackedLinear
from llm_finetune.quantization.native_linear import NativeLinear, plain_matrix, pointer

log = logging.getLogger(__name__)

KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# Their angles depend on how long the text is by now.
CHANGING_ROTATION = ("dynamic", "longrope")
# By their own classes: what else derives from Linear may make its weight at each call.
PLAIN = (torch.nn.Linear, UnpackedLinear, FusedLinearCrossEntropyHead)
# Beyond, a step is arithmetic more than reading.
MOST_PROMPTS = 32
# Tokens of all prompts that are read at once: what a layer makes of them stays in the cache.
AT_ONCE = 64


class NativeStep:
    """Reads prompts, then one token a prompt at a time.

    Args:
        model: one for which `unsupported_reason` returns None.
        starts: the column of each prompt's first token; prompts are padded on their left.
        capacity: columns there may ever be.
    """

    def __init__(self, model: Any, starts: Sequence[int], capacity: int) -> None:
        self._referenced: list[torch.Tensor] = []
        self._length, self._capacity = 0, capacity
        self._vocabulary = model.config.vocab_size
        config, count = model.config, len(starts)
        self._at_once = max(1, AT_ONCE // count)
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = model.model.layers[0].self_attn.head_dim
        self._layers = (Layer * config.num_hidden_layers)()
        caches = DynamicCache(config=config).layers  # empty: they say which layers see a window only
        for number, (layer, past) in enumerate(zip(model.model.layers, caches, strict=True)):
            room = torch.empty(2, count, key_heads, capacity, head_dim, dtype=torch.bfloat16)
            keys, values = self._keep(room).unbind()
            window = past.sliding_window if past.is_sliding else 0
            self._layers[number] = self._layer(layer, keys, values, window)
        positions = torch.arange(capacity).unsqueeze(0)
        cosines, sines = model.model.rotary_emb(torch.zeros(1), positions)
        rows = count * self._at_once
        widths = (config.hidden_size, (heads + 2 * key_heads) * head_dim)
        scratch = [self._keep(torch.zeros(rows, width)) for width in widths]
        for width in (heads * head_dim, config.intermediate_size):
            whole = width + -width % VECTOR
            scratch.append(self._keep(torch.zeros(rows, whole, dtype=torch.bfloat16)))
        self._model = Model(
            *(len(self._layers), config.hidden_size, config.intermediate_size, heads, key_heads),
            *(head_dim, capacity, count, torch.get_num_threads()),
            *(config.rms_norm_eps, model.model.layers[0].self_attn.scaling, self._layers),
            *(pointer(model.model.embed_tokens.weight), self._floats(model.model.norm.weight)),
            self._matrix(model.lm_head),
            *(self._floats(cosines[0]), self._floats(sines[0])),
            pointer(self._keep(torch.tensor(starts, dtype=torch.int32))),
            *map(pointer, scratch),
        )

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits in fp32 for the token that follows, shape (prompts, vocabulary).

        Args:
            ids: the next tokens of each prompt, shape (prompts, tokens).

        Raises:
            IndexError: there is no room for them, or one is not in the vocabulary.
        """
        if self._length + ids.shape[1] > self._capacity:
            raise IndexError(f"there is room for {self._capacity} tokens")
        least, most = map(int, ids.aminmax())
        if least < 0 or most >= self._vocabulary:
            raise IndexError(f"token ids from {least} to {most}, but the vocabulary has {self._vocabulary}")
        kernels = library()
        assert kernels is not None
        logits = torch.empty(len(ids), self._vocabulary)
        pieces = ids.tensor_split(-(-ids.shape[1] // self._at_once), dim=1)
        for number, piece in enumerate(map(torch.Tensor.contiguous, pieces), 1):
            to = logits.data_ptr() if number == len(pieces) else None
            kernels.step(ctypes.byref(self._model), pointer(piece), piece.shape[1], self._length, to)
            self._length += piece.shape[1]
        return logits

    def _layer(self, layer: Any, keys: torch.Tensor, values: torch.Tensor, window: int) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        linears = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        head_norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        return Layer(
            *map(self._matrix, (*linears, mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
            *(norm and self._floats(norm.weight) for norm in (*norms, *head_norms)),
            *(pointer(keys), pointer(values), window),
        )

    def _matrix(self, linear: Any) -> Matrix:
        if isinstance(linear, NativeLinear):
            return linear.matrix()
        bias = linear.bias
        return plain_matrix(linear, None if bias is None else self._keep(bias.float()))

    def _floats(self, tensor: torch.Tensor) -> int | None:
        return pointer(self._keep(tensor.float().contiguous()))

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Keeps a reference: the C structure holds the address only."""
        self._referenced.append(tensor)
        return tensor


def native_step(model: Any, starts: Sequence[int], capacity: int) -> NativeStep | None:
    """The native step; None where the model is not supported, which is logged once for each reason."""
    reason = unsupported_reason(model, len(starts))
    if reason is None:
        return NativeStep(model, starts, capacity)
    _tell(reason)
    return None


def unsupported_reason(model: Any, prompts: int = 1) -> str | None:
    """Why the model must decode with PyTorch layers; None where the native step supports it."""
    if type(model).__name__ not in KNOWN or not type(model).__module__.startswith("transformers.models."):
        return f"{type(model).__name__} is not supported"
    if library() is None:
        return "no native kernels on this CPU (needs a C compiler and AVX-512 BF16)"
    if prompts > MOST_PROMPTS:
        return f"{prompts} prompts at once are more than {MOST_PROMPTS}"
    config = model.config
    rotation = config.rope_parameters["rope_type"]
    if config.hidden_act != "silu" or rotation in CHANGING_ROTATION:
        return f"activation {config.hidden_act}, rotation {rotation}"
    if model.model.embed_tokens.weight.dtype != torch.bfloat16 or model.device.type != "cpu":
        return f"its weights are {model.model.embed_tokens.weight.dtype} on {model.device.type}"
    for path, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{path} has a hook"
    for number, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        together = (attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)
        alone = (attention.o_proj,), (mlp.down_proj,)
        for linears in (*together, *alone):
            if len(set(map(_kind, linears))) > 1 or _kind(linears[0]) is None:
                return f"layer {number} has linear layers of other or of several kinds"
    return None if _kind(model.lm_head) else "its output head is of another kind"


@cache
def _tell(reason: str) -> None:
    log.info("decoding with PyTorch layers: %s", reason)


def _kind(linear: Any) -> tuple[int, int, bool] | None:
    """Layers of one kind can share what is known of their inputs."""
    if isinstance(linear, NativeLinear):
        return linear.bits, linear.group, linear.zero_points is None
    if (
        type(linear) not in PLAIN
        or linear.weight.dtype != torch.bfloat16
        or not linear.weight.is_contiguous()
    ):
        return None
    return 16, 0, True
