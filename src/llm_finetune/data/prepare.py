"""From sources to the prepared set on disk, from top to bottom."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_finetune.data import validation_split
from llm_finetune.data.prepared_dataset import is_whole, write_summary, written_aside
from llm_finetune.data.records import Record
from llm_finetune.data.resolved_spec import ResolvedSpec, decide
from llm_finetune.data.sources.iterate import Files, Problems, read_records
from llm_finetune.data.spec import PrepareSpec
from llm_finetune.data.stats import SplitSummary, Summary
from llm_finetune.data.tokenized_records import Placed, Sequencer
from llm_finetune.data.writer import SplitWriter
from llm_finetune.errors import DataError

Progress = Callable[[int, str], None]

_REPORT_EVERY = 1000
_NOWHERE, _TRAIN, _VALIDATION = 0, 1, 2
_FOLDERS = {_TRAIN: "train", _VALIDATION: "validation"}


class Share(NamedTuple):
    """Some files, and into which split each of their records goes.

    Attributes:
        split_of: uint8, shape (records,): 0 for none, 1 for train, 2 for validation.
    """

    files: Files
    split_of: NDArray[np.uint8]


def prepare(spec: PrepareSpec, tokenizer: Any, cache_dir: Path, progress: Progress | None = None) -> Path:
    """Prepare the records of a spec, unless that was done before.

    Every row is checked before the first is tokenized. Memory does not grow with the records' text.

    Args:
        tokenizer: a transformers tokenizer with a fast form; it is left as it is.
        cache_dir: the prepared set becomes a folder in it, named after all that decides its content.
        progress: called now and then with a number of records and what was done with them.

    Returns:
        The folder; `open_prepared` opens it.

    Raises:
        DataError: sources, rows or lengths; nothing is written.
        ModelError: the tokenizer.
        OutputError: the folder cannot be written.
    """
    resolved = decide(spec, tokenizer)
    folder = cache_dir / resolved.fingerprint(tokenizer)
    if not is_whole(folder):
        report = progress or (lambda records, what: None)
        sequencer = Sequencer(resolved, tokenizer)
        shares, left_out = _share_out(resolved, report)
        with written_aside(folder) as work:
            splits = _write(resolved, shares, sequencer, work, report)
            write_summary(work, _summary(resolved, splits, left_out))
    return folder


def _share_out(resolved: ResolvedSpec, report: Progress) -> tuple[list[Share], int]:
    """Check every row, and decide by its content where it goes.

    Returns:
        The shares, and how many training records are left out since they are validation records as well.
    """
    spec, catalog = resolved.spec, resolved.catalog
    problems = Problems()
    hashes = _hashes(resolved, catalog.training, problems, report)
    validation_hashes = _hashes(resolved, catalog.validation, problems, report)
    problems.raise_any()
    share = spec.validation_share if spec.with_validation and not catalog.validation else 0
    train, held_out = validation_split.divided(hashes, validation_hashes, share)
    left_out = len(hashes) - int(np.count_nonzero(train | held_out))
    split_of = np.zeros(len(hashes), np.uint8)
    split_of[validation_split.first(train, spec.max_samples)] = _TRAIN
    split_of[validation_split.first(held_out, spec.max_validation_samples)] = _VALIDATION
    shares = [Share(catalog.training, split_of)]
    if catalog.validation:
        everything = np.ones(len(validation_hashes), np.bool_)
        chosen = validation_split.first(everything, spec.max_validation_samples)
        shares.append(Share(catalog.validation, np.where(chosen, _VALIDATION, _NOWHERE).astype(np.uint8)))
    return shares, left_out


def _hashes(
    resolved: ResolvedSpec, files: Files, problems: Problems, report: Progress
) -> validation_split.Hashes:
    hashes = array("Q")
    for _, record in read_records(files, resolved.schema, problems):
        hashes.append(validation_split.content_hash(record, resolved.spec.seed))
        if len(hashes) % _REPORT_EVERY == 0:
            report(len(hashes), "records checked")
    return np.frombuffer(hashes, np.uint64) if hashes else np.zeros(0, np.uint64)


def _write(
    resolved: ResolvedSpec, shares: Sequence[Share], sequencer: Sequencer, work: Path, report: Progress
) -> dict[str, SplitSummary]:
    """Tokenize the records and write each into its split; then lay the rows out."""
    spec = resolved.spec
    problems = Problems()
    files_of = {int(split): share.files for share in shares for split in np.unique(share.split_of) if split}
    total = sum(int(np.count_nonzero(share.split_of)) for share in shares)
    done = count(1)
    with ExitStack() as stack:
        writers = {split: stack.enter_context(SplitWriter(work / _FOLDERS[split])) for split in files_of}
        for share in shares:
            records = _placed(resolved, share, problems)
            sequences = sequencer.sequences(records, share.files, problems)
            for written in sequences:
                writers[written.place[1]].add(written)
                if written.marks.begins and (number := next(done)) % _REPORT_EVERY == 0:
                    report(number, f"of {total:,} records tokenized")
        problems.raise_any()
        if next(done) <= total:
            raise DataError("The data changed while it was read. Start again once it is complete.")
        return {
            _FOLDERS[split]: writer.finish(_names(files_of[split]), spec.max_length, spec.packing)
            for split, writer in writers.items()
        }


def _placed(resolved: ResolvedSpec, share: Share, problems: Problems) -> Iterator[tuple[Placed, Record]]:
    """The records of a share that go anywhere."""
    wanted = np.flatnonzero(share.split_of)
    last = int(wanted[-1]) if len(wanted) else -1
    for number, (origin, record) in enumerate(read_records(share.files, resolved.schema, problems)):
        if number > last:
            break
        if split := int(share.split_of[number]):
            yield (origin, split), record


def _names(files: Files) -> list[list[str]]:
    return [[file.name for file in group] for group in files]


def _summary(resolved: ResolvedSpec, splits: dict[str, SplitSummary], left_out: int) -> Summary:
    spec = resolved.spec
    share = f"{spec.validation_share:g} of the training records" if "validation" in splits else "nowhere"
    return Summary(
        data_type=resolved.schema.type,
        prompt_format=resolved.prompt_format,
        prompt_format_reason=resolved.prompt_format_reason,
        max_length=spec.max_length,
        packing=spec.packing,
        validation_from=resolved.catalog.validation_from or share,
        kept_for_validation_only=left_out,
        train=splits["train"],
        validation=splits.get("validation"),
    )
