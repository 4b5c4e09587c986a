"""The words of a tokenizer's special tokens where a record's own text holds them: there they are plain text.

A page that explains `</s>` would else end in its middle. Only what a prompt's format writes becomes a control
token. So such a word is escaped before its record is written into that format, and the two are not mixed up.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Any

from tokenizers import AddedToken

from llm_finetune.data.records import InvalidRecordError, Record


class ControlWords:
    """Finds, escapes and reads them.

    Args:
        tokenizer: a transformers tokenizer.
        backend: the fast form of it that reads all other text.

    Attributes:
        were_found: a record held any.
    """

    def __init__(self, tokenizer: Any, backend: Any) -> None:
        special = {str(word): AddedToken(str(word), special=True) for word in tokenizer.all_special_tokens}
        added = backend.get_added_tokens_decoder().values()
        self._tokens = special | {token.content: token for token in added if token.special}
        self._backend = backend
        self._unknown = tokenizer.unk_token
        words = sorted(filter(None, self._tokens))
        # By first letters: a pattern whose words begin alike is found ten times as fast.
        self._patterns = [_any_of(some) for _, some in groupby(words, key=lambda word: word[0])]
        # No text contains it, and no template changes it: digits have neither case nor spaces.
        self._mark = f"~{secrets.randbelow(10**18):018d}~"
        self._escapes = {word: f"{self._mark}{number}~" for number, word in enumerate(words)}
        self._all = _any_of([*words, *self._escapes.values()])
        self._reader: _Reader | None = None
        self.were_found = False

    def escaped(self, record: Record) -> Record | None:
        """The record with marks in place of such words; None where it holds none."""
        texts = record.texts()
        if not any(map(self._found, texts)):
            return None
        self.were_found = True
        return record.with_texts([self._all.sub(lambda found: self._escapes[found[0]], t) for t in texts])

    def all_escaped(self, records: Sequence[Record]) -> list[Record | None]:
        """`escaped` of each. Hardly any holds one: that shows at one look at the text of all."""
        if not self._found("\0".join(chain.from_iterable(record.texts() for record in records))):
            return [None] * len(records)
        return list(map(self.escaped, records))

    def are_in(self, text: str) -> bool:
        """Whether a prompt holds an escaped word."""
        return self.were_found and self._mark in text

    def plain(self, text: str) -> str:
        """The prompt as a person reads it."""
        for word, escape in self._escapes.items():
            text = text.replace(escape, word)
        return text

    def _found(self, text: str) -> bool:
        return any(pattern.search(text) for pattern in self._patterns)

    @property
    def reader(self) -> _Reader:
        """Tokenizes prompts that hold escaped words."""
        if self._reader is None:
            self._reader = _Reader(self._backend, self._tokens, self._escapes, self._all, self._unknown)
        return self._reader


class _Reader:
    """A tokenizer that reads special tokens as plain text, and stand-ins for them as those tokens.

    The stand-ins divide a text just as the special tokens do, so all else is read as it always is.
    """

    def __init__(
        self,
        backend: Any,
        tokens: dict[str, Any],
        escapes: dict[str, str],
        pattern: re.Pattern[str],
        unknown: str | None,
    ) -> None:
        self._backend = type(backend).from_str(backend.to_str())
        ids = {word: backend.token_to_id(word) for word in escapes}
        stand_ins = {word: f"<{secrets.randbelow(10**18):018d}>" for word in escapes}
        self._backend.add_tokens([_like(tokens[word], stand_ins[word]) for word in escapes])
        self._backend.encode_special_tokens = True
        self._pattern = pattern
        self._replacement = stand_ins | {escape: word for word, escape in escapes.items()}
        self._id_of = {self._backend.token_to_id(stand_ins[word]): ids[word] for word in escapes}
        self._words = {ids[word]: word for word in escapes if word != unknown}

    def text(self, prompt: str) -> str:
        """A prompt as `encode` takes it."""
        return self._pattern.sub(lambda found: self._replacement[found[0]], prompt)

    def encode(self, text: str) -> Any:
        return self._backend.encode(text)

    def ids(self, encoding: Any) -> list[int]:
        """The tokens, those of the model's own vocabulary.

        Raises:
            InvalidRecordError: the tokenizer knows no other way to read such a word.
        """
        if found := self._words.keys() & set(encoding.ids):
            raise InvalidRecordError(
                f"the text holds {self._words[min(found)]!r}, which this tokenizer can only read as a control"
                " token; take it out"
            )
        return [self._id_of.get(token, token) for token in encoding.ids]


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """The longest first, as tokenizers choose."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))


def _like(token: Any, content: str) -> AddedToken:
    return AddedToken(
        content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=False,
    )
