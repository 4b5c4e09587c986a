"""The decode loop: prompts in, one token a step out for each."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from llm_finetune.errors import ModelError
from llm_finetune.generation.native_decoder import NativeStep, native_step

KEYS_AND_VALUES, STATES = "past_key_values", "cache_params"
"""Names of the cache in attention models and in recurrent models (Mamba)."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from the model's distribution.

    Attributes:
        temperature: the logits are divided by it; 0: always the most likely token (greedy); the
            other fields are then unused.
        top_k: sample from the k most likely tokens; 0: from all.
        top_p: sample from the smallest set of most likely tokens whose total probability reaches this
            (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751), at least one; applied after
            temperature and top_k.
        seed: the same prompts in the same batch with the same seed give the same tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class Token:
    """One chosen token.

    Attributes:
        log_prob: its log-probability, in nats, by the model itself: before temperature, top_k and top_p.
    """

    id: int
    log_prob: float


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[list[Token | None]]:
    """The tokens that follow each prompt, step by step; the model runs as the caller asks for the next step.

    A prompt ends with its first token of `end_ids`, which is handed out too, after `max_new_tokens`, or where
    prompt and tokens fill the model's context. When all have ended, so does the iterator. Prompts of unequal
    lengths do not influence each other.

    Args:
        model: a causal language model of transformers in eval mode, also inside peft's wrapper.
        prompts: token ids of each prompt, at least one.

    Returns:
        One list a step with an entry a prompt: its token, or None once it has ended.

    Raises:
        ModelError: at once, where a prompt leaves no room in the model's context; or on the way, where the
            model's outputs are NaN or infinite.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    context = context_length(model)
    longest = max(map(len, prompts), default=0)
    if context is not None and longest >= context:
        raise ModelError(
            f"the prompt has {longest:,} tokens and fills the model's context of {context:,}; shorten it"
        )
    rooms = [max_new_tokens if context is None else min(max_new_tokens, context - len(p)) for p in prompts]
    return _steps(model, prompts, rooms, frozenset(end_ids), sampling)


def context_length(model: Any) -> int | None:
    """Tokens that prompt and answer may have together; None: the model names no limit."""
    length: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return length


def prompt_room(model: Any, max_new_tokens: int) -> int:
    """Tokens that a prompt may have, so that an answer fits behind it, or half a context of one."""
    context = context_length(model)
    return context - min(max_new_tokens, context // 2) if context else sys.maxsize


@torch.inference_mode()
def _steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rooms: list[int],
    end_ids: frozenset[int],
    sampling: Sampling,
) -> Iterator[list[Token | None]]:
    reader = _reader(model, prompts, max(rooms, default=0))
    generator = torch.Generator(model.device).manual_seed(sampling.seed)
    next_ids: torch.Tensor | None = None
    while any(rooms):
        logits = reader.read_prompts() if next_ids is None else reader.read(next_ids)
        likelihoods = logits.log_softmax(1)
        if likelihoods.isnan().any():
            raise ModelError(
                "the model's outputs are NaN or infinite: its weights are broken; download, "
                "tune or quantize it again"
            )
        next_ids = _choose(logits, sampling, generator)
        log_probs = likelihoods.gather(1, next_ids).squeeze(1)
        step: list[Token | None] = []
        for row, (token, log_prob) in enumerate(
            zip(next_ids.squeeze(1).tolist(), log_probs.tolist(), strict=True)
        ):
            step.append(Token(token, log_prob) if rooms[row] else None)
            rooms[row] = 0 if token in end_ids else max(rooms[row] - 1, 0)
        yield step


def _reader(model: Any, prompts: Sequence[Sequence[int]], steps: int) -> _Reader | _Apart:
    takes = inspect.signature(_plain(model).forward).parameters
    if KEYS_AND_VALUES in takes:
        return _Reader(model, prompts, steps, KEYS_AND_VALUES)
    # The recurrent state of such a model has no positions that a mask could hide, so no prompt may be padded.
    return _Apart([_Reader(model, [prompt], steps, STATES) for prompt in prompts])


def _plain(model: Any) -> Any:
    """Without peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _Apart:
    """A reader for each prompt, handled as one."""

    def __init__(self, readers: Sequence[_Reader]) -> None:
        self._readers = readers

    def read_prompts(self) -> torch.Tensor:
        """As of `_Reader`."""
        return torch.cat([reader.read_prompts() for reader in self._readers])

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """As of `_Reader`."""
        return torch.cat([reader.read(ids[row : row + 1]) for row, reader in enumerate(self._readers)])


class _Reader:
    """The model and what it has read: keys and values are cached, so nothing is computed twice.

    Prompts of unequal lengths are padded on their left, where a mask hides the padding and positions leave
    it out; those of one length need neither. A model without a cache reads all tokens again at each step.

    Args:
        steps: tokens that will follow each prompt at most.
        cache: the name of the model's argument and output that hold its cache.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], steps: int, cache: str) -> None:
        self._model, self._cache_name = model, cache
        self._cache: Any = None
        self._length = 0
        self._uncached: torch.Tensor | None = None
        width = max(map(len, prompts), default=0)
        padding = [width - len(prompt) for prompt in prompts]
        self._step: NativeStep | None = None
        self._padding, self._capacity = padding, width + steps
        self._prompts = torch.tensor(
            [[0] * gap + list(prompt) for gap, prompt in zip(padding, prompts, strict=True)],
            device=model.device,
        )
        self._mask: torch.Tensor | None = None
        if any(padding):
            # Made once for all steps, which then take slices.
            columns = torch.arange(width + steps, device=model.device)
            self._mask = columns >= torch.tensor(padding, device=model.device).unsqueeze(1)
            self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)

    def read_prompts(self) -> torch.Tensor:
        """What `read` returns, for the prompts; the output head runs on their last position alone."""
        self._step = native_step(self._model, self._padding, self._capacity)
        if self._step:
            return self._step.read(self._prompts)
        with _head_on_the_last_position(self._model):
            return self._read(self._prompts)

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits in fp32 for the token that follows, shape (prompts, vocabulary).

        Args:
            ids: the next token of each prompt, shape (prompts, 1).
        """
        return self._step.read(ids) if self._step else self._read(ids)

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        start, self._length = self._length, self._length + ids.shape[1]
        if self._uncached is not None:
            ids, start = torch.cat([self._uncached, ids], dim=1), 0
        padded = {}
        if self._mask is not None:
            padded["attention_mask"] = self._mask[:, : self._length]
            padded["position_ids"] = self._positions[:, start : self._length]
        cached = {self._cache_name: self._cache} if self._cache is not None else {}
        output = self._model(input_ids=ids, use_cache=self._uncached is None, **cached, **padded)
        self._cache = getattr(output, self._cache_name, None)
        self._uncached = ids if self._cache is None else None
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


@contextmanager
def _head_on_the_last_position(model: Any) -> Iterator[None]:
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: inputs[0][:, -1:])
    try:
        yield
    finally:
        handle.remove()


def _choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """A token for each row of logits (rows, vocabulary), shape (rows, 1)."""
    if sampling.temperature == 0:
        return logits.argmax(1, keepdim=True)
    # From the highest down, so that no temperature, however small, leaves the numbers' range.
    scaled = (logits - logits.amax(1, keepdim=True)) / sampling.temperature
    if not sampling.top_k and sampling.top_p >= 1:
        return scaled.softmax(1).multinomial(1, generator=generator)
    vocabulary = logits.shape[1]
    likeliest, ids = scaled.topk(min(sampling.top_k or vocabulary, vocabulary))
    probabilities = likeliest.softmax(1)
    enough = probabilities.cumsum(1) - probabilities >= sampling.top_p
    enough[:, 0] = False
    chosen = probabilities.masked_fill(enough, 0).multinomial(1, generator=generator)
    return ids.gather(1, chosen)
