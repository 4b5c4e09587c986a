"""The project's own job, from its values on."""

from __future__ import annotations

import json
import os
import tempfile

from recipe import ALPHA, LEARNING_RATE, LENGTH, PAD_ID, RANK, ROWS, STEPS, changed, folder
from recorder import Recorder

from llm_finetune.cli import app
from llm_finetune.distributed import allocator

# What the command does first; the recorder would load heavy packages before it.
allocator.start_again_with(allocator.wanted("auto", os.environ))
train = {
    "datasetName": None, "dataFile": str(folder / "records.json"), "promptFormat": "sections",
    "perDeviceBatchSize": ROWS, "maxSeqLength": LENGTH, "maxSteps": STEPS, "learningRate": LEARNING_RATE,
    "loraRank": RANK, "loraAlpha": ALPHA, "loraDropout": 0, "outputDir": tempfile.mkdtemp(),
    "saveStrategy": "no", "reportTo": None, "loggingSteps": 1, **changed,
}  # fmt: skip
values = {"modelNameOrPath": str(folder / "model"), "doEval": False, "train": train}
Recorder(PAD_ID).listen()
app(["run", "--set-json", f"distributed={json.dumps(values)}"], standalone_mode=False)
