"""From records to token sequences that fit into a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from llm_finetune.data import fitting
from llm_finetune.data.fitting import Fitted
from llm_finetune.data.prompts import Openings, Piece, prompt_of
from llm_finetune.data.reading import Files, Problems, where
from llm_finetune.data.recipe import Recipe
from llm_finetune.data.records import BadRowError, Origin, Record
from llm_finetune.data.tokens import Encoder, TokenSequence

# A record's origin, and the number of the split it goes into.
Placed = tuple[Origin, int]


class Sequencer:
    """Writes records as the recipe says, tokenizes them and fits them into a row.

    Raises:
        ModelError: the tokenizer does not read its own end-of-sequence token as one token.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any) -> None:
        self._recipe = recipe
        self._encoder = Encoder(tokenizer)
        openings = Openings(recipe.plan.prompt_with_input, recipe.plan.prompt_without_input)
        self._prompt = prompt_of(recipe.prompt_format, openings, self._encoder.eos, tokenizer)
        self._bos = tokenizer.bos_token_id

    def sequences(
        self, records: Iterable[tuple[Placed, Record]], files: Files, problems: Problems
    ) -> Iterator[tuple[Placed, Fitted, int]]:
        """Each record's place, its sequences, and its length in tokens before it was fitted.

        A record that cannot be written, is refused for its length or teaches nothing is added to `problems`.
        """
        recipe = self._recipe
        prompts = self._written(records, files, problems)
        for place, sequence in self._encoder.encode(prompts, self._prompt.writes_special_tokens):
            length = len(sequence.input_ids)
            if length > recipe.plan.max_length and recipe.too_long == "refuse":
                problems.add(
                    f"{where(files, place[0])}: {length:,} tokens, and maxSeqLength is "
                    f"{recipe.plan.max_length:,}. Raise it, shorten the record, or let tooLong be auto."
                )
                continue
            fitted = self._fit(sequence)
            if not fitted.sequences[0].trained[1:].any():
                problems.add(f"{where(files, place[0])}: not one token of it could be trained on.")
                continue
            yield place, fitted, length

    def _written(
        self, records: Iterable[tuple[Placed, Record]], files: Files, problems: Problems
    ) -> Iterator[tuple[Placed, list[Piece]]]:
        for place, record in records:
            try:
                yield place, self._prompt.render(record)
            except BadRowError as problem:
                problems.add(f"{where(files, place[0])}: {problem}")

    def _fit(self, sequence: TokenSequence) -> Fitted:
        plan = self._recipe.plan
        if len(sequence.input_ids) <= plan.max_length:
            fitted = Fitted([sequence])
        elif self._recipe.too_long == "split":
            fitted = fitting.split(sequence, plan.max_length)
        else:
            fitted = fitting.truncate(sequence, plan.max_length, int(sequence.input_ids[0] == self._bos))
        if plan.loss_on_prompt:
            # Only now: what is cut depends on where the answer begins.
            everything = [TokenSequence(ids, np.ones(len(ids), np.bool_)) for ids, _ in fitted.sequences]
            fitted = fitted._replace(sequences=everything)
        return fitted
