"""What is decided before the records are read: files, record type, prompt, tokens, lengths."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llm_finetune.data.prompt_templates import choose_format
from llm_finetune.data.records import Schema
from llm_finetune.data.records.formats import infer_schema
from llm_finetune.data.sources.iterate import Files
from llm_finetune.data.sources.local import Catalog, open_sources
from llm_finetune.data.spec import PrepareSpec
from llm_finetune.errors import DataError, ModelError

FORMAT_VERSION = 3


@dataclass(frozen=True)
class ResolvedSpec:
    """How the records of a spec become token sequences.

    Attributes:
        prompt_format_reason: why this format, in words.
        too_long: what happens to a record that is longer than a row.
    """

    spec: PrepareSpec
    catalog: Catalog
    schema: Schema
    prompt_format: Literal["alpaca", "chat", "text"]
    prompt_format_reason: str
    too_long: Literal["truncate", "split", "error"]

    def fingerprint(self, tokenizer: Any) -> str:
        """A name for all that decides the prepared set's content."""
        spec = asdict(self.spec)
        for only_leads_to_the_rest in ("training", "validation", "model_name", "prompt_format", "too_long"):
            del spec[only_leads_to_the_rest]
        parts = {
            "version": FORMAT_VERSION,
            "spec": spec,
            "schema": asdict(self.schema),
            "prompt_format": self.prompt_format,
            "too_long": self.too_long,
            "tokenizer": _identity(tokenizer),
            "training": _digests(self.catalog.training),
            "validation": _digests(self.catalog.validation),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def decide(spec: PrepareSpec, tokenizer: Any) -> ResolvedSpec:
    """Find the files, look at the first row and choose what is `auto`.

    Raises:
        DataError: the files, their columns or the spec.
        ModelError: the tokenizer cannot do what the spec asks for.
    """
    _check(tokenizer)
    catalog = open_sources(spec.training, spec.validation, spec.with_validation)
    first_file = catalog.training[0][0]
    row, raw = next(first_file.rows())
    schema = infer_schema(raw, spec.data_type, spec.columns, f"{first_file.location}, row {row}")
    if schema.type == "text":
        return ResolvedSpec(
            spec, catalog, schema, "text", "plain text has no prompt", _too_long(spec, "split")
        )
    if spec.too_long == "split":
        raise DataError(
            f"overflowStrategy is split, but the records are of type {schema.type}: a piece without its "
            "prompt would teach nothing. Choose truncate or error."
        )
    prompt_format, reason = choose_format(spec.prompt_format, spec.model_name, tokenizer, schema.type)
    return ResolvedSpec(spec, catalog, schema, prompt_format, reason, _too_long(spec, "truncate"))


def _check(tokenizer: Any) -> None:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError("The model's tokenizer has no fast form (tokenizer.json); preparing data needs one.")
    if not tokenizer.eos_token:
        raise ModelError("The model's tokenizer names no end-of-sequence token, which every answer ends in.")


def _too_long(
    spec: PrepareSpec, automatic: Literal["truncate", "split"]
) -> Literal["truncate", "split", "error"]:
    return automatic if spec.too_long == "auto" else spec.too_long


def _digests(files: Files) -> list[list[tuple[str, str]]]:
    return [[(file.name, file.digest()) for file in group] for group in files]


def _identity(tokenizer: Any) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last caller of the tokenizer left behind.
    del backend["truncation"], backend["padding"]
    words = [backend, tokenizer.chat_template, tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()
