"""The project's preparation: rows on disk, to be memory-mapped.     python ours.py FOLDER"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import turns

from llm_finetune.data import PreparePlan, Source, open_prepared, prepare
from llm_finetune.model import base

folder = Path(sys.argv[1])
tokenizer = base.load_tokenizer(folder / "model", False)


def work() -> turns.Answer:
    plan = PreparePlan(
        (Source(files=folder / "records.jsonl"),), with_validation=False, prompt_format="sections"
    )
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        prepared = open_prepared(prepare(plan, tokenizer, Path(cache)))
        seconds = time.perf_counter() - started
        summary = prepared.summary.train
        return {"seconds": seconds, "rows": summary.rows, "empty_share": summary.empty_share}


turns.take_turns(work, versions=turns.versions("tokenizers", "numpy"))
