"""Everything that decides what is prepared, as plain arguments."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_finetune.data.prompt_templates import PromptFormat
from llm_finetune.data.records import Columns, DataType
from llm_finetune.data.sources.source import Source
from llm_finetune.data.truncation import TooLong


@dataclass(frozen=True)
class PrepareSpec:
    """What to prepare, and how.

    Attributes:
        training: where the training records come from.
        validation: where the validation records come from. Empty: the `validation` or `test` split of a
            Hub data set, else `validation_share` of the training records.
        with_validation: False prepares no validation records at all.
        validation_share: share of the distinct training records, from 0 (none) to below 1.
        data_type: what a record is; `auto` looks at the columns of the first row.
        columns: the names of a record's columns, where they are not the usual ones.
        prompt_format: how a record becomes text; `auto` is chat where the tokenizer has a template and the
            records are conversations, or `model_name` says chat or instruct.
        model_name: the base model's name or path; it serves `auto` and messages alone.
        prompt_with_input: opening of the prompt of a record that has an input.
        prompt_without_input: opening of the prompt of a record that has none.
        max_length: tokens a row holds at most.
        too_long: what happens to a longer record. `truncate` cuts the prompt's left, then the answer's end;
            `split` cuts text into consecutive pieces; `error` stops; `auto` is split for text,
            truncate otherwise.
        packing: put several records into one row.
        loss_on_prompt: train on the prompt as well.
        mask_history: of a conversation, train on the last answer alone.
        max_samples: only the first so many training records; None is all.
        max_validation_samples: the same for validation.
        seed: decides which records go to validation.
    """

    training: tuple[Source, ...]
    validation: tuple[Source, ...] = ()
    with_validation: bool = True
    validation_share: float = 0.2
    data_type: DataType = "auto"
    columns: Columns = field(default_factory=Columns)
    prompt_format: PromptFormat = "auto"
    model_name: str = ""
    prompt_with_input: str = ""
    prompt_without_input: str = ""
    max_length: int = 512
    too_long: TooLong = "auto"
    packing: bool = True
    loss_on_prompt: bool = False
    mask_history: bool = False
    max_samples: int | None = None
    max_validation_samples: int | None = None
    seed: int = 42
