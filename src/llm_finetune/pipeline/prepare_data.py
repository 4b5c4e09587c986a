"""From the settings to the prepared rows: which records, written how, cut to what length."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.config import Settings
from llm_finetune.data import Columns, PrepareSpec, Source, prepare
from llm_finetune.data.stats import SplitSummary, Summary
from llm_finetune.storage.user_directories import user_home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0


def prepare_data(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of the prepared rows; made if the same records were not prepared the same way before.

    Raises:
        DataError: what is wrong with the records, and where.
    """
    folder = prepare(prepare_spec(settings), tokenizer, cache_folder(), _ProgressLines())
    return folder.resolve()


def prepare_spec(settings: Settings) -> PrepareSpec:
    """All that decides what is prepared."""
    train, evaluation = settings.train, settings.eval
    if train.data_file:
        source = Source(files=Path(train.data_file))
    else:
        source = Source(
            dataset=train.dataset_name,
            config=train.dataset_config,
            split=train.dataset_split,
            revision=train.dataset_revision,
        )
    names = {
        "instruction": train.instruction_column_name,
        "input": train.input_column_name,
        "output": train.output_column_name,
        "messages": train.messages_column_name,
        "text": train.text_column_name,
    }
    return PrepareSpec(
        training=(source,),
        validation=(Source(files=Path(evaluation.data_file)),) if evaluation.data_file else (),
        with_validation=settings.do_eval,
        validation_share=evaluation.validation_share,
        data_type=train.data_type,
        columns=Columns(**{column: name for column, name in names.items() if name}),
        prompt_format=train.prompt_format,
        model_name=settings.model_name_or_path,
        prompt_with_input=train.prompt_with_input or "",
        prompt_without_input=train.prompt_without_input or "",
        max_length=train.max_seq_length,
        too_long=train.overflow_strategy,
        packing=train.dataset_concatenation,
        loss_on_prompt=train.train_on_prompt,
        mask_history=train.mask_history,
        max_samples=train.max_samples,
        max_validation_samples=evaluation.max_samples,
        seed=train.seed,
    )


def log_summary(summary: Summary) -> None:
    """Logs what was prepared, in a few lines; what was cut is a warning."""
    log.info(
        "data: %s records in %s (%s); validation: %s",
        summary.data_type,
        summary.prompt_format,
        summary.prompt_format_reason,
        summary.validation_from,
    )
    for name, split in (("training", summary.train), ("validation", summary.validation)):
        if split is None:
            continue
        log.info(
            f"data: {name}: {split.records:,} records, {split.tokens:,} tokens, {split.trained_tokens:,} "
            f"trained on, {split.rows:,} rows of at most {summary.max_length}, {split.empty_share:.1%} empty"
        )
        if cuts := _describe_cuts(split):
            log.warning("data: %s: records exceed maxSeqLength %d: %s", name, summary.max_length, cuts)
        for remark in remarks(split.taken_apart, split.control_words, split.lost_thoughts):
            log.info("data: %s: %s", name, remark)
    if summary.kept_for_validation_only:
        log.info(
            "data: %s training records are validation records too and were left out",
            f"{summary.kept_for_validation_only:,}",
        )


def _describe_cuts(split: SplitSummary) -> str:
    cuts = {
        "prompts truncated on the left": split.truncated_prompts,
        "answers truncated": split.cut_answers,
        "records split": split.split_records,
    }

    def counted(count: int) -> str:
        if split.taken_apart:  # then several sequences of one record may have been cut
            return f"{count:,} sequences"
        return f"{count:,} of {split.records:,}, {count / split.records:.1%}"

    return ", ".join(f"{words} ({counted(count)})" for words, count in cuts.items() if count)


def remarks(taken_apart: int, control_words: int, lost_thoughts: int) -> list[str]:
    """What a user would not expect of how records were written."""
    found = {
        "conversations have a sequence for each of their answers, since the chat template writes earlier "
        "turns differently once later ones follow": taken_apart,
        "records hold words of special tokens; they are read as plain text": control_words,
        "answers lost their thoughts (up to </think>), which the chat template leaves out; promptFormat "
        "alpaca keeps them": lost_thoughts,
    }
    return [f"{count:,} {what}" for what, count in found.items() if count]


def cache_folder() -> Path:
    """Beside the data sets that Hugging Face caches: in the cluster on the volume, for all workers."""
    home = Path(os.environ.get("HF_HOME") or user_home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets") / "llm-finetune"


class _ProgressLines:
    """A line of the log every few seconds, since preparing millions of records takes minutes."""

    def __init__(self) -> None:
        self.logged = time.monotonic()

    def __call__(self, records: int, what: str) -> None:
        if time.monotonic() - self.logged >= SECONDS_BETWEEN_LINES:
            self.logged = time.monotonic()
            log.info("data: %s records %s", f"{records:,}", what)
