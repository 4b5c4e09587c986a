"""What training would see, shown before it starts."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_finetune.data import validation_split
from llm_finetune.data.packing import pack
from llm_finetune.data.prompt_segments import PromptSegment
from llm_finetune.data.records import Record
from llm_finetune.data.resolved_spec import ResolvedSpec, decide
from llm_finetune.data.sources.iterate import Files, Problems, read_records, where
from llm_finetune.data.spec import PrepareSpec
from llm_finetune.data.tokenization import TokenSequence
from llm_finetune.data.tokenized_records import Placed, Sequencer
from llm_finetune.data.truncation import Truncated

CHECKED_RECORDS = 200_000
MEASURED_RECORDS = 2_000
_BRACKETS = str.maketrans({"⟦": r"\u27e6", "⟧": r"\u27e7"})


@dataclass(frozen=True)
class Example:
    """One record as the model would read it.

    Attributes:
        place: file and row.
        pieces: the tokens as text; `trained` where the loss counts them.
        cut: what it lost to maxSeqLength, in words; empty: nothing.
    """

    place: str
    pieces: list[PromptSegment]
    cut: str

    def __str__(self) -> str:
        # A record that brings the brackets itself would show another part as the trained one.
        texts = [(piece.text.translate(_BRACKETS), piece.loss_mask) for piece in self.pieces]
        return "".join(f"⟦{text}⟧" if trained else text for text, trained in texts)


@dataclass(frozen=True)
class Layout:
    """Rows for the measured records.

    Attributes:
        positions: what is computed, padding counted.
    """

    rows: int
    positions: int


@dataclass(frozen=True)
class Preview:
    """The first records of the training sources.

    Attributes:
        checked: rows that were read and found right.
        all_checked: there are no more than those.
        measured: records that were tokenized for the figures below.
        taken_apart, control_words, lost_thoughts: of those, as a SplitSummary has them.
        lengths: tokens of a record: mean, p50, p90, p99, longest.
        too_long: records of more than `max_length` tokens.
        too_long_fate: what happens to them: truncate or split.
        packed: rows with packing.
        padded: rows without it, in batches padded to their longest record.
    """

    data_type: str
    prompt_format: str
    prompt_format_reason: str
    validation_from: str | None
    examples: list[Example]
    checked: int
    all_checked: bool
    measured: int
    taken_apart: int
    control_words: int
    lost_thoughts: int
    max_length: int
    lengths: dict[str, float]
    too_long: int
    too_long_fate: str
    packed: Layout
    padded: Layout


def preview(spec: PrepareSpec, tokenizer: Any, examples: int = 3, batch_size: int = 8) -> Preview:
    """Check and measure the first records, in seconds whatever the size of the files; writes nothing.

    Args:
        examples: records to show as text.
        batch_size: rows a batch, for what padding would cost.

    Raises:
        DataError, ModelError: as `prepare`, for what was read.
    """
    resolved = decide(spec, tokenizer)
    sequencer = Sequencer(resolved, tokenizer)
    problems = Problems()
    head, hashes, complete = _check(resolved, resolved.catalog.training, problems)
    _, validation_hashes, validation_complete = _check(resolved, resolved.catalog.validation, problems)
    problems.raise_any()
    if complete and validation_complete:
        share = spec.validation_share if spec.with_validation and not resolved.catalog.validation else 0
        validation_split.divided(hashes, validation_hashes, share)
    measured = list(sequencer.sequences(head, resolved.catalog.training, problems))
    problems.raise_any()
    begun = [written.marks for written in measured if written.marks.begins]
    read = np.array([written.length for written in measured])
    fitted = np.array([len(part.input_ids) for written in measured for part in written.fitted.sequences])
    _, row_offsets = pack(fitted, spec.max_length)
    return Preview(
        data_type=resolved.schema.type,
        prompt_format=resolved.prompt_format,
        prompt_format_reason=resolved.prompt_format_reason,
        validation_from=resolved.catalog.validation_from,
        examples=[
            Example(
                where(resolved.catalog.training, written.place[0]),
                _pieces(written.fitted.sequences[0], tokenizer),
                _describe_cut(written.fitted),
            )
            for written in measured[:examples]
        ],
        checked=len(hashes),
        all_checked=complete and validation_complete,
        measured=len(begun),
        taken_apart=sum(marks.prompts > 1 for marks in begun),
        control_words=sum(marks.control_words for marks in begun),
        lost_thoughts=sum(marks.lost_thoughts for marks in begun),
        max_length=spec.max_length,
        lengths={
            "mean": float(read.mean()),
            **{f"p{p}": float(np.percentile(read, p, method="higher")) for p in (50, 90, 99)},
            "longest": float(read.max()),
        },
        too_long=len({written.place[0] for written in measured if written.length > spec.max_length}),
        too_long_fate=resolved.too_long,
        packed=Layout(len(row_offsets) - 1, (len(row_offsets) - 1) * spec.max_length),
        padded=_padded(fitted, batch_size),
    )


def _check(
    resolved: ResolvedSpec, files: Files, problems: Problems
) -> tuple[list[tuple[Placed, Record]], validation_split.Hashes, bool]:
    """The records to measure, the hashes of those that were checked, and whether that was all."""
    head: list[tuple[Placed, Record]] = []
    hashes = array("Q")
    complete = True
    for origin, record in read_records(files, resolved.schema, problems):
        if len(hashes) == CHECKED_RECORDS:
            complete = False
            break
        hashes.append(validation_split.content_hash(record, resolved.spec.seed))
        if len(head) < MEASURED_RECORDS:
            head.append(((origin, 1), record))
    return head, np.array(hashes, np.uint64), complete


def _describe_cut(fitted: Truncated) -> str:
    cuts = {
        "prompt truncated on the left": fitted.prompt_cut,
        "answer truncated": fitted.answer_cut,
        f"the first of {len(fitted.sequences)} parts": len(fitted.sequences) > 1,
    }
    return ", ".join(words for words, holds in cuts.items() if holds)


def _pieces(sequence: TokenSequence, tokenizer: Any) -> list[PromptSegment]:
    """The tokens as text, cut where training begins or ends."""
    # Whole beginnings are decoded, and not the parts: some tokenizers strip the space before a text.
    trained = sequence.loss_mask.copy()
    trained[0] = False
    borders = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(trained)]
    texts = [
        tokenizer.decode(sequence.input_ids[:end].tolist(), clean_up_tokenization_spaces=False)
        for end in borders
    ]
    return [
        PromptSegment(whole[len(before) :], bool(trained[start]))
        for (before, whole), start in zip(pairwise(texts), borders, strict=False)
    ]


def _padded(lengths: NDArray[np.int64], batch_size: int) -> Layout:
    longest = np.maximum.reduceat(lengths, np.arange(0, len(lengths), batch_size))
    last = len(lengths) - batch_size * (len(longest) - 1)
    return Layout(len(lengths), int(longest[:-1].sum() * batch_size + longest[-1] * last))
