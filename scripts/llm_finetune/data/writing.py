"""Writing one split of a prepared set, record by record."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from llm_finetune.data.fitting import Fitted
from llm_finetune.data.packing import one_a_row, pack
from llm_finetune.data.records import Origin
from llm_finetune.data.summary import SplitSummary


class SplitWriter:
    """Streams records to disk; only a few numbers of each stay in memory.

    A context manager: it closes its files, whatever happens.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lengths = array("q")  # of the records as they were read
        self._offsets = array("q", [0])  # of the records as they are written
        self._counts: Counter[str] = Counter()
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

    def add(self, origin: Origin, fitted: Fitted, length: int) -> None:
        """Write one record, which had `length` tokens before it was fitted."""
        self._lengths.append(length)
        self._counts["truncated_prompts"] += fitted.prompt_cut
        self._counts["cut_answers"] += fitted.answer_cut
        self._counts["split_records"] += len(fitted.sequences) > 1
        where = np.array(origin, np.int64).tobytes()
        for input_ids, trained in fitted.sequences:
            self._provenance.write(where)
            self._input_ids.write(input_ids.tobytes())
            self._trained.write(trained.tobytes())
            self._offsets.append(self._offsets[-1] + len(input_ids))
            self._counts["trained_tokens"] += int(np.count_nonzero(trained[1:]))

    def finish(self, files: Sequence[Sequence[str]], max_length: int, packing: bool) -> SplitSummary:
        """Lay the rows out and write the rest."""
        self._files.close()
        offsets = np.frombuffer(self._offsets, np.int64)
        lengths = np.diff(offsets)
        rows, row_offsets = pack(lengths, max_length) if packing else one_a_row(lengths)
        offsets.tofile(self._folder / "tokens/offsets.bin")
        rows.tofile(self._folder / "rows.bin")
        row_offsets.tofile(self._folder / "row_offsets.bin")
        read = np.frombuffer(self._lengths, np.int64)
        return SplitSummary(
            files=[list(names) for names in files],
            records=len(read),
            tokens=int(offsets[-1]),
            rows=len(row_offsets) - 1,
            positions=(len(row_offsets) - 1) * int(np.add.reduceat(lengths[rows], row_offsets[:-1]).max()),
            longest=int(read.max()),
            length_percentiles={f"p{p}": int(np.percentile(read, p, method="higher")) for p in (50, 90, 99)},
            **{name: self._counts[name] for name in _COUNTS},
        )


_COUNTS = ("trained_tokens", "truncated_prompts", "cut_answers", "split_records")
