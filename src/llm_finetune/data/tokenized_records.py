"""From records to token sequences that fit into a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from llm_finetune.data import prompt_segments, truncation
from llm_finetune.data.prompt_segments import PromptPreambles, PromptSegment
from llm_finetune.data.prompt_templates import prompt_of
from llm_finetune.data.records import InvalidRecordError, Origin, Record, size_of
from llm_finetune.data.resolved_spec import ResolvedSpec
from llm_finetune.data.sources.iterate import Files, Problems, where
from llm_finetune.data.template_sandbox import StoppedError
from llm_finetune.data.tokenization import Encoder, TokenSequence
from llm_finetune.data.truncation import Truncated
from llm_finetune.errors import ModelError

# A record's origin, and the number of the split it goes into.
Placed = tuple[Origin, int]
BATCH_RECORDS = 250
BATCH_CHARACTERS = 4 * 1024 * 1024


class Marks(NamedTuple):
    """What befell a record while it was written.

    Attributes:
        begins: this is its only sequence, or its first.
        prompts: sequences it was written as: more than one where each answer has its own.
        control_words: its text holds words of special tokens, which are read as plain text.
        lost_thoughts: answers whose thoughts the chat template leaves out.
    """

    begins: bool
    prompts: int
    control_words: bool
    lost_thoughts: int


class Written(NamedTuple):
    """One prompt of a record as tokens.

    Attributes:
        length: tokens before it was fitted.
    """

    place: Placed
    fitted: Truncated
    length: int
    marks: Marks


class Sequencer:
    """Writes records as the resolved says, tokenizes them and fits them into a row.

    Raises:
        ModelError: the tokenizer does not read its own end-of-sequence token as one token.
    """

    def __init__(self, resolved: ResolvedSpec, tokenizer: Any) -> None:
        self._resolved = resolved
        self._encoder = Encoder(tokenizer)
        spec = resolved.spec
        preambles = PromptPreambles(spec.prompt_with_input, spec.prompt_without_input)
        self._prompt = prompt_of(
            resolved.prompt_format, preambles, self._encoder.eos, tokenizer, spec.mask_history
        )
        self._bos = tokenizer.bos_token_id

    def sequences(
        self, records: Iterable[tuple[Placed, Record]], files: Files, problems: Problems
    ) -> Iterator[Written]:
        """The sequences of each record, in order.

        A record that cannot be written, is refused for its length or teaches nothing is added to `problems`.

        Raises:
            ModelError: the chat template had to be stopped.
        """
        resolved = self._resolved
        prompts = self._written(records, files, problems)
        for (place, marks), sequence in self._encoder.encode(prompts, self._prompt.writes_special_tokens):
            if isinstance(sequence, InvalidRecordError):
                problems.add(f"{where(files, place[0])}: {sequence}")
                continue
            length = len(sequence.input_ids)
            if length > resolved.spec.max_length and resolved.too_long == "error":
                problems.add(
                    f"{where(files, place[0])}: {length:,} tokens, and maxSeqLength is "
                    f"{resolved.spec.max_length:,}. Raise it, shorten the record, or let "
                    "overflowStrategy be auto."
                )
                continue
            fitted = self._fit(sequence)
            if not fitted.sequences[0].loss_mask[1:].any():
                problems.add(f"{where(files, place[0])}: not one token of it could be trained on.")
                continue
            yield Written(place, fitted, length, marks)

    def _written(
        self, records: Iterable[tuple[Placed, Record]], files: Files, problems: Problems
    ) -> Iterator[tuple[tuple[Placed, Marks], list[PromptSegment]]]:
        control_words = self._encoder.control_words
        records = iter(records)
        while batch := list(_batch(records)):
            places, plain = zip(*batch, strict=True)
            escaped = control_words.all_escaped(plain)
            rendered = self._rendered(
                places, [new or old for new, old in zip(escaped, plain, strict=True)], files
            )
            for place, changed, written in zip(places, escaped, rendered, strict=True):
                if isinstance(written, InvalidRecordError):
                    problems.add(self._told(place, written, files))
                    continue
                count, held = len(written.prompts), changed is not None
                for number, prompt in enumerate(written.prompts):
                    yield (place, Marks(number == 0, count, held, written.lost_thoughts)), prompt

    def _rendered(
        self, places: Sequence[Placed], records: Sequence[Record], files: Files
    ) -> list[prompt_segments.Written | InvalidRecordError]:
        try:
            return self._prompt.render(records)
        except StoppedError as error:
            if len(records) == 1:
                raise ModelError(self._told(places[0], error, files)) from error
        # Which one it was shows where each is written alone.
        return [
            self._rendered([place], [record], files)[0] for place, record in zip(places, records, strict=True)
        ]

    def _told(self, place: Placed, problem: InvalidRecordError, files: Files) -> str:
        return f"{where(files, place[0])}: {self._encoder.control_words.plain(str(problem))}"

    def _fit(self, sequence: TokenSequence) -> Truncated:
        spec = self._resolved.spec
        if len(sequence.input_ids) <= spec.max_length:
            fitted = Truncated([sequence])
        elif self._resolved.too_long == "split":
            fitted = truncation.split(sequence, spec.max_length)
        else:
            fitted = truncation.truncate(sequence, spec.max_length, int(sequence.input_ids[0] == self._bos))
        if spec.loss_on_prompt:
            # Only now: what is cut depends on where the answer begins.
            everything = [TokenSequence(ids, np.ones(len(ids), np.bool_)) for ids, _ in fitted.sequences]
            fitted = fitted._replace(sequences=everything)
        return fitted


def _batch(records: Iterator[tuple[Placed, Record]]) -> Iterator[tuple[Placed, Record]]:
    """So many records that writing them at once takes a bounded memory."""
    characters = 0
    for place, record in islice(records, BATCH_RECORDS):
        yield place, record
        characters += size_of(record)
        if characters > BATCH_CHARACTERS:
            return
