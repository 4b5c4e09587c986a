"""From prompts to token sequences, each token marked as trained on or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_finetune.data.prompt_segments import PromptSegment
from llm_finetune.data.records import InvalidRecordError
from llm_finetune.data.special_tokens import ControlWords
from llm_finetune.errors import ModelError

BATCH_RECORDS = 1000
BATCH_CHARACTERS = 4 * 1024 * 1024
K = TypeVar("K")


class TokenSequence(NamedTuple):
    """One record as the model reads it.

    Attributes:
        input_ids: int32, shape (tokens,).
        loss_mask: bool, shape (tokens,): the token is part of an answer.
    """

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]


class Encoder:
    """A tokenizer with what preparing needs: batches, offsets and the tokens it puts in front.

    Attributes:
        control_words: the words of its special tokens, which a record's own text may hold.

    Raises:
        ModelError: it does not read its own end-of-sequence token as one token.
    """

    def __init__(self, tokenizer: Any) -> None:
        # A copy, so that the caller's tokenizer stays as it is. Whatever an earlier call of it left behind
        # must not shorten records, and offsets must count the space that belongs to a token.
        backend = tokenizer.backend_tokenizer
        self._backend = type(backend).from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self.first_ids = _ids_in_front(self._backend)
        self._backend.post_processor = None
        self.eos: str = tokenizer.eos_token
        if self._backend.encode(self.eos).ids != [tokenizer.eos_token_id]:
            raise ModelError(
                f"The tokenizer does not read its end-of-sequence token {self.eos!r} as one token."
            )
        self.control_words = ControlWords(tokenizer, self._backend)

    def encode(
        self, prompts: Iterable[tuple[K, list[PromptSegment]]], specials_written: bool
    ) -> Iterator[tuple[K, TokenSequence | InvalidRecordError]]:
        """Tokenize each prompt as a whole, just as it will be when the model is asked.

        Args:
            prompts: any key with each prompt; it comes back with the tokens, or with why there are none.
            specials_written: the prompts hold all special tokens; none are put in front.
        """
        first = [] if specials_written else self.first_ids
        prompts = iter(prompts)
        # The tokenizer's own threads run while Python writes the batch before.
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[tuple[list[tuple[K, list[PromptSegment]]], Future[list[Any]]]] = deque()
            while batch := list(_batch(prompts)):
                texts = ["".join(piece.text for piece in prompt) for _, prompt in batch]
                waiting.append((batch, pool.submit(self._backend.encode_batch, texts)))
                if len(waiting) > 1:
                    yield from self._marked(*waiting.popleft(), first)
            while waiting:
                yield from self._marked(*waiting.popleft(), first)

    def prompt_ids(self, text: str, specials_written: bool) -> list[int]:
        """The tokens of a prompt whose answer is still to come: those of `encode` up to the answer.

        Raises:
            InvalidRecordError: it holds a control word that the tokenizer cannot read as text.
        """
        ids: list[int]
        if self.control_words.are_in(text):
            reader = self.control_words.reader
            ids = reader.ids(reader.encode(reader.text(text)))
        else:
            ids = self._backend.encode(text).ids
        return ids if specials_written else [*self.first_ids, *ids]

    def _marked(
        self, batch: list[tuple[K, list[PromptSegment]]], encoded: Future[list[Any]], first: list[int]
    ) -> Iterator[tuple[K, TokenSequence | InvalidRecordError]]:
        # Numbers of the whole batch in three lists, turned into arrays at once: the records are views.
        ids: list[int] = []
        counts: list[int] = []
        flags: list[bool] = []
        ends: list[int | InvalidRecordError] = []
        for (_, prompt), encoding in zip(batch, encoded.result(), strict=True):
            try:
                record_ids, borders = self._tokens(prompt, encoding)
            except InvalidRecordError as problem:
                ends.append(problem)
                continue
            ids += first
            ids += record_ids
            counts += [len(first), *(end - start for start, end in pairwise(borders))]
            flags += [False, *(piece.loss_mask for piece in prompt)]
            ends.append(len(ids))
        input_ids, trained = np.array(ids, np.int32), np.repeat(flags, counts)
        start = 0
        for (key, _), end in zip(batch, ends, strict=True):
            if isinstance(end, InvalidRecordError):
                yield key, end
                continue
            yield key, TokenSequence(input_ids[start:end], trained[start:end])
            start = end

    def _tokens(self, prompt: list[PromptSegment], encoding: Any) -> tuple[list[int], list[int]]:
        """The tokens, and the index of the first one of each piece, and the end."""
        words = self.control_words
        if words.were_found and any(words.are_in(piece.text) for piece in prompt):
            reader = words.reader
            texts = [reader.text(piece.text) for piece in prompt]
            return _divided(texts, reader.encode("".join(texts)), reader.encode, reader.ids)
        return _divided([piece.text for piece in prompt], encoding, self._backend.encode, _ids)


def _divided(
    texts: list[str], encoding: Any, encode: Callable[[str], Any], ids_of: Callable[[Any], list[int]]
) -> tuple[list[int], list[int]]:
    """The tokens of a whole text, and where those of each of its parts begin and end."""
    ids = ids_of(encoding)
    borders = [0]
    position = 0
    for text in texts[:-1]:
        position += len(text)
        token = encoding.char_to_token(position)
        if token is None:
            token = _next_token(encoding, position)
        if token < len(ids) and encoding.token_to_chars(token)[0] < position:
            # A token lies across the border: the model will never see it when it is asked.
            parts = [ids_of(encode(part)) for part in texts]
            return list(chain.from_iterable(parts)), [0, *accumulate(map(len, parts))]
        borders.append(token)
    return ids, [*borders, len(ids)]


def _ids(encoding: Any) -> list[int]:
    ids: list[int] = encoding.ids
    return ids


def _batch(prompts: Iterator[tuple[K, list[PromptSegment]]]) -> Iterator[tuple[K, list[PromptSegment]]]:
    """So many prompts that tokenizing them at once takes a bounded memory."""
    characters = 0
    for key, prompt in islice(prompts, BATCH_RECORDS):
        yield key, prompt
        characters += sum(len(piece.text) for piece in prompt)
        if characters > BATCH_CHARACTERS:
            return


def _next_token(encoding: Any, position: int) -> int:
    """The first token behind a character that the tokenizer leaves out."""
    last = encoding.offsets[-1][1] if encoding.offsets else 0
    found = (encoding.char_to_token(at) for at in range(position, last))
    return next((token for token in found if token is not None), len(encoding))


def _ids_in_front(backend: Any) -> list[int]:
    """The special tokens that the tokenizer itself puts before a text (often one: BOS)."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    fitting = (i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return list(full[: next(fitting, 0)])
