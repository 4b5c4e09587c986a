"""Writing one split of a prepared set, record by record."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from llm_finetune.data.packing import pack, unpacked
from llm_finetune.data.stats import SplitSummary
from llm_finetune.data.tokenized_records import Written

_ORIGIN = struct.Struct("=qqq")
SEEN = ("tokens/input_ids.bin", "tokens/trained.bin", "tokens/offsets.bin", "rows.bin", "row_offsets.bin")


class SplitWriter:
    """Streams records to disk; only a few numbers of each stay in memory.

    A context manager: it closes its files, whatever happens.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lengths = array("q")  # of the records as they were read
        self._offsets = array("q", [0])  # of the records as they are written
        self._records = self._truncated_prompts = self._cut_answers = self._split_records = 0
        self._taken_apart = self._control_words = self._lost_thoughts = 0
        (folder / "tokens").mkdir(parents=True)
        with ExitStack() as files:
            self._provenance = files.enter_context((folder / "provenance.bin").open("wb"))
            self._input_ids = files.enter_context((folder / "tokens/input_ids.bin").open("wb"))
            self._trained = files.enter_context((folder / "tokens/trained.bin").open("wb"))
            self._files = files.pop_all()

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, written: Written) -> None:
        """Write one sequence of a record; each record's come together."""
        fitted, marks = written.fitted, written.marks
        self._lengths.append(written.length)
        self._truncated_prompts += fitted.prompt_cut
        self._cut_answers += fitted.answer_cut
        self._split_records += len(fitted.sequences) > 1
        if marks.begins:
            self._records += 1
            self._taken_apart += marks.prompts > 1
            self._control_words += marks.control_words
            self._lost_thoughts += marks.lost_thoughts
        origin, _ = written.place
        for input_ids, trained in fitted.sequences:
            self._provenance.write(_ORIGIN.pack(*origin))
            self._input_ids.write(input_ids.data)
            self._trained.write(trained.data)
            self._offsets.append(self._offsets[-1] + len(input_ids))

    def finish(self, files: Sequence[Sequence[str]], max_length: int, packing: bool) -> SplitSummary:
        """Lay the rows out and write the rest."""
        self._files.close()
        offsets = np.frombuffer(self._offsets, np.int64)
        lengths = np.diff(offsets)
        rows, row_offsets = pack(lengths, max_length) if packing else unpacked(lengths)
        offsets.tofile(self._folder / "tokens/offsets.bin")
        rows.tofile(self._folder / "rows.bin")
        row_offsets.tofile(self._folder / "row_offsets.bin")
        trained = np.memmap(self._folder / "tokens/trained.bin", np.bool_, mode="r")
        read = np.frombuffer(self._lengths, np.int64)
        return SplitSummary(
            files=[list(names) for names in files],
            records=self._records,
            tokens=int(offsets[-1]),
            trained_tokens=int(np.count_nonzero(trained) - np.count_nonzero(trained[offsets[:-1]])),
            truncated_prompts=self._truncated_prompts,
            cut_answers=self._cut_answers,
            split_records=self._split_records,
            taken_apart=self._taken_apart,
            control_words=self._control_words,
            lost_thoughts=self._lost_thoughts,
            rows=len(row_offsets) - 1,
            positions=(len(row_offsets) - 1) * int(np.max(np.add.reduceat(lengths[rows], row_offsets[:-1]))),
            longest=int(np.max(read)),
            length_percentiles={f"p{p}": int(np.percentile(read, p, method="higher")) for p in (50, 90, 99)},
            digest=self._digest(),
        )

    def _digest(self) -> str:
        """Of all that a training sees; where a record came from is no part of that."""
        digest = hashlib.sha256()
        for name in SEEN:
            with (self._folder / name).open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()
