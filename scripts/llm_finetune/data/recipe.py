"""What is decided before the records are read: files, record type, prompt, tokens, lengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from llm_finetune.data import fitting
from llm_finetune.data.fitting import Fitted
from llm_finetune.data.plan import PreparePlan
from llm_finetune.data.prompts import (
    ChatPrompt,
    Openings,
    Piece,
    PlainText,
    Prompt,
    SectionsPrompt,
    choose_format,
)
from llm_finetune.data.reading import Files, Problems, where
from llm_finetune.data.records import BadRowError, Origin, Record, Schema, recognise
from llm_finetune.data.sources import Catalog, open_sources
from llm_finetune.data.tokens import Encoder, TokenSequence, check_tokenizer
from llm_finetune.errors import DataError

FORMAT_VERSION = 1

# A record's origin, and the number of the split it goes into.
Placed = tuple[Origin, int]


@dataclass(frozen=True)
class Recipe:
    """How the records of a plan become token sequences.

    Attributes:
        prompt_format_reason: why this format, in words.
        too_long: what happens to a record that is longer than a row.
    """

    plan: PreparePlan
    catalog: Catalog
    schema: Schema
    prompt_format: Literal["sections", "chat", "text"]
    prompt_format_reason: str
    too_long: Literal["truncate", "split", "refuse"]

    def fingerprint(self, tokenizer: Any) -> str:
        """A name for all that decides the prepared set's content."""
        plan = asdict(self.plan)
        for only_leads_to_the_rest in ("training", "validation", "model_name", "prompt_format", "too_long"):
            del plan[only_leads_to_the_rest]
        parts = {
            "version": FORMAT_VERSION,
            "plan": plan,
            "schema": asdict(self.schema),
            "prompt_format": self.prompt_format,
            "too_long": self.too_long,
            "tokenizer": _identity(tokenizer),
            "training": _digests(self.catalog.training),
            "validation": _digests(self.catalog.validation),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def sequences(
        self, records: Iterable[tuple[Placed, Record]], files: Files, tokenizer: Any, problems: Problems
    ) -> Iterator[tuple[Placed, Fitted, int]]:
        """Each record's place, its sequences and its length in tokens before it was fitted into a row."""
        encoder = Encoder(tokenizer)
        prompt = self._prompt(encoder.eos, tokenizer)

        def prompts() -> Iterator[tuple[Placed, list[Piece]]]:
            for place, record in records:
                try:
                    yield place, prompt.render(record)
                except BadRowError as problem:
                    problems.add(f"{where(files, place[0])}: {problem}")

        first = 0 if prompt.writes_special_tokens else len(encoder.first_ids)
        for place, sequence in encoder.encode(prompts(), prompt.writes_special_tokens):
            length = len(sequence.input_ids)
            if length > self.plan.max_length and self.too_long == "refuse":
                problems.add(
                    f"{where(files, place[0])}: {length:,} tokens, and maxSeqLength is "
                    f"{self.plan.max_length:,}. Raise it, shorten the record, or let tooLong be auto."
                )
                continue
            fitted = self._fit(sequence, first)
            if not any(part.trained[1:].any() for part in fitted.sequences):
                problems.add(f"{where(files, place[0])}: not one token of it could be trained on.")
                continue
            yield place, fitted, length

    def _prompt(self, eos: str, tokenizer: Any) -> Prompt:
        openings = Openings(self.plan.prompt_with_input, self.plan.prompt_without_input)
        if self.prompt_format == "text":
            return PlainText(eos)
        if self.prompt_format == "chat":
            return ChatPrompt(openings, eos, tokenizer)
        return SectionsPrompt(openings, eos)

    def _fit(self, sequence: TokenSequence, first: int) -> Fitted:
        if len(sequence.input_ids) <= self.plan.max_length:
            fitted = Fitted([sequence])
        elif self.too_long == "split":
            fitted = fitting.split(sequence, self.plan.max_length)
        else:
            fitted = fitting.truncate(sequence, self.plan.max_length, first)
        if self.plan.loss_on_prompt:
            everything = [TokenSequence(ids, np.ones(len(ids), np.bool_)) for ids, _ in fitted.sequences]
            fitted = fitted._replace(sequences=everything)
        return fitted


def decide(plan: PreparePlan, tokenizer: Any) -> Recipe:
    """Find the files, look at the first row and choose what is `auto`.

    Raises:
        DataError: the files, their columns or the plan.
        ModelError: the tokenizer cannot do what the plan asks for.
    """
    check_tokenizer(tokenizer)
    catalog = open_sources(plan.training, plan.validation, plan.with_validation)
    first_file = catalog.training[0][0]
    row, raw = next(first_file.rows())
    schema = recognise(raw, plan.data_type, plan.columns, f"{first_file.location}, row {row}")
    if schema.type == "text":
        return Recipe(plan, catalog, schema, "text", "plain text has no prompt", _too_long(plan, "split"))
    if plan.too_long == "split":
        raise DataError(
            f"tooLong is split, but the records are of type {schema.type}: a piece without its prompt would "
            "teach nothing. Choose truncate or refuse."
        )
    prompt_format, reason = choose_format(plan.prompt_format, plan.model_name, tokenizer)
    return Recipe(plan, catalog, schema, prompt_format, reason, _too_long(plan, "truncate"))


def _too_long(
    plan: PreparePlan, automatic: Literal["truncate", "split"]
) -> Literal["truncate", "split", "refuse"]:
    return automatic if plan.too_long == "auto" else plan.too_long


def _digests(files: Files) -> list[list[tuple[str, str]]]:
    return [[(file.name, file.digest()) for file in group] for group in files]


def _identity(tokenizer: Any) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last caller of the tokenizer left behind.
    del backend["truncation"], backend["padding"]
    words = [backend, tokenizer.chat_template, tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()
