"""A decode step of a whole model in one call, for models whose layers are the Llama family's.

Between two tokens transformers goes through some hundred modules and joins each layer's keys and values anew.
Here the cache has room from the start, and what is left is reading the weights.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from llm_finetune.model.fast.head import LabelHead
from llm_finetune.model.kernels import UnpackedLinear
from llm_finetune.model.native.library import Layer, Matrix, Model, library
from llm_finetune.model.native.linear import NativeLinear, plain_matrix, pointer
from llm_finetune.model.native.packing import VECTOR

log = logging.getLogger(__name__)

KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# Their angles depend on how long the text is by now.
CHANGING_ROTATION = ("dynamic", "longrope")
# By their own classes: what else derives from Linear may make its weight at each call.
PLAIN = (torch.nn.Linear, UnpackedLinear, LabelHead)
# Beyond, a step is arithmetic more than reading.
MOST_PROMPTS = 32


class NativeStep:
    """Reads one token a prompt, after the prompts were read by the model itself.

    Args:
        model: one of which `obstacle` says nothing.
        past: the model's cache of keys and values of the prompts, which are padded on their left.
        starts: the column of each prompt's first token.
        length: columns of the prompts.
        capacity: columns there may ever be.
    """

    def __init__(self, model: Any, past: Any, starts: Sequence[int], length: int, capacity: int) -> None:
        self._kept: list[torch.Tensor] = []
        self._length, self._capacity = length, capacity
        self._vocabulary = model.config.vocab_size
        config, count = model.config, len(starts)
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = model.model.layers[0].self_attn.head_dim
        self._layers = (Layer * config.num_hidden_layers)()
        for number, layer in enumerate(model.model.layers):
            read = past.layers[number]
            keys, values = (self._room(states, length, capacity) for states in (read.keys, read.values))
            window = read.sliding_window if read.is_sliding else 0
            self._layers[number] = self._layer(layer, keys, values, window)
        positions = torch.arange(capacity).unsqueeze(0)
        cosines, sines = model.model.rotary_emb(torch.zeros(1), positions)
        widths = (config.hidden_size, (heads + 2 * key_heads) * head_dim)
        scratch = [self._keep(torch.zeros(count, width)) for width in widths]
        for width in (heads * head_dim, config.intermediate_size):
            whole = width + -width % VECTOR
            scratch.append(self._keep(torch.zeros(count, whole, dtype=torch.bfloat16)))
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
            ids: the next token of each prompt, shape (prompts, 1).

        Raises:
            IndexError: the room is used up.
        """
        if self._length == self._capacity:
            raise IndexError(f"there is room for {self._capacity} tokens")
        kernels = library()
        assert kernels is not None
        logits = torch.empty(len(ids), self._vocabulary)
        kernels.step(ctypes.byref(self._model), pointer(ids.contiguous()), self._length, logits.data_ptr())
        self._length += 1
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

    def _room(self, states: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
        """The states with room behind them; a sliding window's cache has only the last of them."""
        count, heads, columns, dim = states.shape
        room = self._keep(torch.empty(count, heads, capacity, dim, dtype=torch.bfloat16))
        room[:, :, length - columns : length] = states
        return room

    def _floats(self, tensor: torch.Tensor) -> int | None:
        return pointer(self._keep(tensor.float().contiguous()))

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """C holds its address only."""
        self._kept.append(tensor)
        return tensor


def native_step(
    model: Any, past: Any, starts: Sequence[int], length: int, capacity: int
) -> NativeStep | None:
    """The step, where there can be one; else the log says why not."""
    reason = obstacle(model, len(starts))
    if reason is None:
        return NativeStep(model, past, starts, length, capacity)
    _tell(reason)
    return None


def obstacle(model: Any, prompts: int = 1) -> str | None:
    """Why the model decodes by its own layers; None: it need not."""
    if type(model).__name__ not in KNOWN or not type(model).__module__.startswith("transformers.models."):
        return f"the layers of {type(model).__name__} are not known"
    if library() is None:
        return "there are no kernels of our own"
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
    log.info("decoding by the model's own layers: %s", reason)


def _kind(linear: Any) -> tuple[int, int, bool] | None:
    """Layers of one kind can share what is known of their inputs."""
    if isinstance(linear, NativeLinear):
        return linear.bits, linear.group, linear.zeros is None
    if (
        type(linear) not in PLAIN
        or linear.weight.dtype != torch.bfloat16
        or not linear.weight.is_contiguous()
    ):
        return None
    return 16, 0, True
