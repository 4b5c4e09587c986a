"""Incremental detokenization: whole characters, up to the end token or a stop string."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from llm_finetune.generation.decoding import GREEDY, Sampling, Token, decode

HALF = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Detokenizer:
    """Text of tokens that come one by one; together the pieces are what the tokenizer makes of all tokens.

    Each step decodes the last few tokens alone: those that are waited for, and the piece before them, since a
    token's text depends on whether it is the first (the space before it). `tokenizers.DecodeStream` works in
    this way too, but raises an error where bytes form no character, and drops what it waits for at the end.

    Args:
        after: tokens whose text these go on with; none: they are a text of their own.
    """

    def __init__(self, tokenizer: Any, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._specials = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._ids = list(after)
        self._shown = len(after)
        self._before = self._decode(self._ids)

    def add(self, token_id: int) -> str:
        """The text completed by this token; empty while the rest of a character is missing."""
        self._ids.append(token_id)
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None or token_id in self._specials or _BYTE.fullmatch(token):
            # The first two have no text. Single bytes (byte fallback) become characters only all together:
            # one wrong byte behind them undoes those before it.
            return ""
        text = self._decode(self._ids)
        return "" if text.endswith(HALF) else self._show(text)

    def rest(self) -> str:
        """The remaining text at the end; incomplete characters become U+FFFD."""
        return self._show(self._decode(self._ids))

    def _show(self, text: str) -> str:
        piece = text[len(self._before) :]
        self._ids = self._ids[self._shown :]
        self._before = self._decode(self._ids)
        self._shown = len(self._ids)
        return piece

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class Answer:
    """The text of one answer while it is written.

    Args:
        end_ids: tokens that end it and are no part of it.
        stop: strings that end it and are no part of it; they may begin and end within tokens.
        after: as for `Detokenizer`.

    Attributes:
        ended: by an end token or a stop string; else it is only as far as its tokens went.
    """

    def __init__(
        self,
        tokenizer: Any,
        end_ids: Collection[int],
        stop: Sequence[str] = (),
        after: Sequence[int] = (),
    ) -> None:
        if "" in stop:
            raise ValueError("an empty stop string stops everything")
        self.ended = False
        self._detokenizer = Detokenizer(tokenizer, after)
        self._end_ids = end_ids
        self._stop = stop
        self._held = ""

    def pieces(self, tokens: Iterable[Token | None]) -> Iterator[str]:
        """The answer, piece by piece, each shown as soon as no later token can change it."""
        for token in tokens:
            if piece := self.add(token):
                yield piece
            if self.ended:
                return
        if piece := self.rest():
            yield piece

    def add(self, token: Token | None) -> str:
        """The text that this token makes certain; none where the answer has ended."""
        if self.ended or token is None:
            return ""
        if token.id in self._end_ids:
            text = self.rest()
            self.ended = True
            return text
        return self._up_to_a_stop(self._detokenizer.add(token.id))

    def rest(self) -> str:
        """The text that was held back, once no more tokens follow."""
        if self.ended:
            return ""
        text = self._up_to_a_stop(self._detokenizer.rest())
        held, self._held = self._held, ""
        return text + held

    def _up_to_a_stop(self, piece: str) -> str:
        text = self._held + piece
        # The stop string that is complete first counts, and of those that end there the longest.
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)[1]]
        begun = max((_begun(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    batch_size: int,
    sampling: Sampling = GREEDY,
    stop: Sequence[str] = (),
    continues: bool = False,
) -> list[str]:
    """The whole answer to each prompt; the likeliest (greedy) one, unless `sampling` says otherwise.

    Args:
        model: as `decode` takes it.
        prompts: token ids.
        batch_size: prompts that are answered at once.
        stop: as for `Answer`.
        continues: an answer goes on with its prompt's text.

    Raises:
        ModelError: a prompt fills the model's context.
    """
    written: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        steps = decode(model, batch, max_new_tokens=max_new_tokens, end_ids=end_ids, sampling=sampling)
        for prompt, row in zip(batch, zip(*steps, strict=True), strict=True):
            answer = Answer(tokenizer, end_ids, stop, prompt if continues else ())
            written.append("".join(answer.pieces(row)))
    return written


def _begun(text: str, stop: str) -> int:
    """Characters at the text's end with which the stop string may have begun."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)
