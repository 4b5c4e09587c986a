"""The project's own job, from its values on."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from recipe import ALPHA, LEARNING_RATE, LENGTH, PAD_ID, RANK, ROWS, STEPS, changed, folder
from recorder import Recorder

from llm_finetune import distributed
from llm_finetune.cli.main import app


def join(*arguments: Any, **options: Any) -> Any:
    """What the command does when its libraries are loaded, which the recorder must not do in its place."""
    from llm_finetune.distributed.process_group import join

    Recorder(PAD_ID).listen()
    return join(*arguments, **options)


train = {
    "datasetName": None, "dataFile": str(folder / "records.json"), "promptFormat": "alpaca",
    "perDeviceBatchSize": ROWS, "maxSeqLength": LENGTH, "maxSteps": STEPS, "learningRate": LEARNING_RATE,
    "loraRank": RANK, "loraAlpha": ALPHA, "loraDropout": 0, "outputDir": tempfile.mkdtemp(),
    "saveStrategy": "no", "reportTo": None, "loggingSteps": 1, **changed,
}  # fmt: skip
values = {"modelNameOrPath": str(folder / "model"), "doEval": False, "train": train}
distributed.join = join
app(["run", "--set-json", f"distributed={json.dumps(values)}"], standalone_mode=False)
