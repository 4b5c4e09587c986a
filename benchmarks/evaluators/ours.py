"""The project's evaluation, on rows that it packs itself.     python ours.py FOLDER RECORDS"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import worker_protocol

from llm_finetune.distributed import Ranks, join
from llm_finetune.host import allocator

folder, count = Path(sys.argv[1]), int(sys.argv[2])
allocator.start_again_with(allocator.wanted("auto", os.environ))

from llm_finetune.config import load  # noqa: E402
from llm_finetune.data import open_prepared, prepare  # noqa: E402
from llm_finetune.data.prepared_dataset import IGNORE_INDEX  # noqa: E402
from llm_finetune.evaluation.perplexity import evaluate  # noqa: E402
from llm_finetune.kernels.precision import choose_precision  # noqa: E402
from llm_finetune.kernels.training.optimize import Switches, optimize_model  # noqa: E402
from llm_finetune.models import loading  # noqa: E402
from llm_finetune.objectives.log_probs import label_log_probs  # noqa: E402
from llm_finetune.objectives.sft import Sft  # noqa: E402
from llm_finetune.pipeline.prepare_data import prepare_spec  # noqa: E402

train = {
    "datasetName": None, "dataFile": str(folder / "records.json"), "promptFormat": "alpaca",
    "maxSamples": count,
}  # fmt: skip
values = {"modelNameOrPath": str(folder / "model"), "doEval": False, "train": train}
settings = load([], [f"distributed={json.dumps(values)}"], [], []).settings
tokenizer = loading.load_tokenizer(folder / "model", False)
rows = open_prepared(prepare(prepare_spec(settings), tokenizer, Path(tempfile.mkdtemp())))
precision = choose_precision(bf16=True, trains_all_weights=False)
model = loading.load_weights(folder / "model", precision.weights, trust_remote_code=False)
optimize_model(model, Switches(), partial(label_log_probs, model), ignored=IGNORE_INDEX)

with join("gloo", Ranks.from_environment(), 60) as group:

    def work() -> worker_protocol.Answer:
        started = time.perf_counter()
        found = evaluate(
            model,
            rows.train,
            Sft(),
            batch_size=settings.eval.per_device_batch_size,
            pad_id=0,
            precision=precision,
            group=group,
        )
        seconds = time.perf_counter() - started
        return {"tokens_per_second": rows.summary.train.tokens / seconds, "loss": found.loss}

    worker_protocol.take_turns(work, versions=worker_protocol.versions("torch", "transformers"))
