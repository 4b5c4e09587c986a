"""The project's preparation: rows on disk, to be memory-mapped.     python ours.py FOLDER"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import worker_protocol

from llm_finetune.config import load
from llm_finetune.data import open_prepared, prepare
from llm_finetune.models import loading
from llm_finetune.pipeline.prepare_data import prepare_spec

folder = Path(sys.argv[1])
tokenizer = loading.load_tokenizer(folder / "model", False)
train = {"datasetName": None, "dataFile": str(folder / "records.jsonl"), "promptFormat": "alpaca"}
values = {"modelNameOrPath": str(folder / "model"), "doEval": False, "train": train}
wanted = prepare_spec(load([], [f"distributed={json.dumps(values)}"], [], []).settings)


def work() -> worker_protocol.Answer:
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        prepared = open_prepared(prepare(wanted, tokenizer, Path(cache)))
        seconds = time.perf_counter() - started
        summary = prepared.summary.train
        return {
            "seconds": seconds,
            "rows": summary.rows,
            "empty_share": summary.empty_share,
            "opening": opening(prepared.folder, verify=True),
            "opening_unverified": opening(prepared.folder, verify=False),
            "bytes": sum(file.stat().st_size for file in prepared.folder.rglob("*.bin")),
        }


def opening(folder: Path, *, verify: bool) -> float:
    """Seconds, the best of three."""

    def once() -> float:
        started = time.perf_counter()
        open_prepared(folder, verify=verify)
        return time.perf_counter() - started

    return min(once() for _ in range(3))


worker_protocol.take_turns(work, versions=worker_protocol.versions("tokenizers", "numpy"))
