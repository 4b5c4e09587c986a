"""From prompts to token sequences, each token marked as trained on or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_finetune.data.prompts import Piece
from llm_finetune.errors import ModelError

BATCH_RECORDS = 1000
K = TypeVar("K")


class TokenSequence(NamedTuple):
    """One record as the model reads it.

    Attributes:
        input_ids: int32, shape (tokens,).
        trained: bool, shape (tokens,): the token is part of an answer.
    """

    input_ids: NDArray[np.int32]
    trained: NDArray[np.bool_]


def check_tokenizer(tokenizer: Any) -> None:
    """Raises:
    ModelError: the tokenizer has no fast form, or no end-of-sequence token of its own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("The model's tokenizer has no fast form (tokenizer.json); preparing data needs one.")
    if not tokenizer.eos_token:
        raise ModelError("The model's tokenizer names no end-of-sequence token, which every answer ends in.")
    if backend.encode(tokenizer.eos_token, add_special_tokens=False).ids != [tokenizer.eos_token_id]:
        raise ModelError(
            f"The model's tokenizer does not read its end-of-sequence token {tokenizer.eos_token!r} as one."
        )


class Encoder:
    """A tokenizer with what preparing needs: batches, offsets and the tokens it puts in front."""

    def __init__(self, tokenizer: Any) -> None:
        backend = tokenizer.backend_tokenizer
        self.eos: str = tokenizer.eos_token
        self.first_ids = _ids_in_front(backend)
        # A copy, so that the caller's tokenizer stays as it is. Whatever an earlier call of it left behind
        # must not shorten records, and offsets must count the space that belongs to a token.
        self._backend = type(backend).from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.post_processor = None

    def encode(
        self, prompts: Iterable[tuple[K, list[Piece]]], specials_written: bool
    ) -> Iterator[tuple[K, TokenSequence]]:
        """Tokenize each prompt as a whole, just as it will be when the model is asked.

        Args:
            prompts: any key with each prompt; it comes back with the tokens.
            specials_written: the prompts hold all special tokens; none are put in front.
        """
        first = [] if specials_written else self.first_ids
        prompts = iter(prompts)
        # The tokenizer's own threads run while Python writes the batch before.
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[tuple[list[tuple[K, list[Piece]]], Future[list[Any]]]] = deque()
            while batch := list(islice(prompts, BATCH_RECORDS)):
                texts = ["".join(piece.text for piece in prompt) for _, prompt in batch]
                waiting.append((batch, pool.submit(self._backend.encode_batch, texts)))
                if len(waiting) > 1:
                    yield from self._marked(*waiting.popleft(), first)
            while waiting:
                yield from self._marked(*waiting.popleft(), first)

    def _marked(
        self, batch: list[tuple[K, list[Piece]]], encoded: Future[list[Any]], first: list[int]
    ) -> Iterator[tuple[K, TokenSequence]]:
        for (key, prompt), encoding in zip(batch, encoded.result(), strict=True):
            yield key, self._mark(prompt, encoding, first)

    def _mark(self, prompt: list[Piece], encoding: Any, first: list[int]) -> TokenSequence:
        borders = _token_borders(prompt, encoding)
        ids = encoding.ids
        if borders is None:
            parts = [self._backend.encode(piece.text).ids for piece in prompt]
            borders = [0, *accumulate(map(len, parts))]
            ids = [token for part in parts for token in part]
        trained = np.zeros(len(first) + len(ids), np.bool_)
        for piece, start, end in zip(prompt, borders, borders[1:], strict=False):
            trained[len(first) + start : len(first) + end] = piece.trained
        return TokenSequence(np.array(first + ids, np.int32), trained)


def _token_borders(prompt: list[Piece], encoding: Any) -> list[int] | None:
    """Index of the first token of each piece, and the end; None where a token lies across a border."""
    ends = list(accumulate(len(piece.text) for piece in prompt))
    borders = [0]
    for start in ends[:-1]:
        # A character that the tokenizer leaves out belongs to no token: the next one that does counts.
        tokens = (encoding.char_to_token(at) for at in range(start, ends[-1]))
        token = next((token for token in tokens if token is not None), len(encoding))
        if token < len(encoding) and encoding.token_to_chars(token)[0] < start:
            return None
        borders.append(token)
    return [*borders, len(encoding)]


def _ids_in_front(backend: Any) -> list[int]:
    """The special tokens that the tokenizer itself puts before a text (often one: BOS)."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    fitting = (i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return list(full[: next(fitting, 0)])
