"""From the settings to the prepared rows: which records, written how, cut to what length."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.config import Settings
from llm_finetune.data import Columns, PreparePlan, Source, prepare
from llm_finetune.data.stats import Summary
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
    folder = prepare(plan(settings), tokenizer, cache_folder(), _ProgressLines())
    return folder.resolve()


def plan(settings: Settings) -> PreparePlan:
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
    return PreparePlan(
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


def told(summary: Summary) -> list[str]:
    """What was prepared, in a few lines of the log; what was cut is never left unsaid."""
    lines = [
        f"data: {summary.data_type} records in {summary.prompt_format} ({summary.prompt_format_reason}); "
        f"validation: {summary.validation_from}"
    ]
    for name, split in (("training", summary.train), ("validation", summary.validation)):
        if split is None:
            continue
        lines.append(
            f"data: {name}: {split.records:,} records, {split.tokens:,} tokens, {split.trained_tokens:,} "
            f"trained on, {split.rows:,} rows of at most {summary.max_length}, {split.empty_share:.1%} empty"
        )
        cut = {
            "lost the left of their prompt": split.truncated_prompts,
            "lost the end of their answer": split.cut_answers,
            "were split": split.split_records,
        }
        fates = [f"{count:,} {fate}" for fate, count in cut.items() if count]
        if fates:
            lines.append(f"data: {name}: of records above maxSeqLength {', '.join(fates)}")
        found = remarks(split.taken_apart, split.control_words, split.lost_thoughts)
        lines += [f"data: {name}: {remark}" for remark in found]
    if summary.kept_for_validation_only:
        count = f"{summary.kept_for_validation_only:,}"
        lines.append(f"data: {count} training records are validation records too and were left out")
    return lines


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
        self.said = time.monotonic()

    def __call__(self, records: int, what: str) -> None:
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            log.info("data: %s records %s", f"{records:,}", what)
