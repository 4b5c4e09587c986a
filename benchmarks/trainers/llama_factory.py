"""LLaMA-Factory on the records in its Alpaca form."""

from __future__ import annotations

import json
import tempfile

from llamafactory.train.tuner import run_exp
from recipe import ALPHA, LEARNING_RATE, LENGTH, PAD_ID, RANK, ROWS, STEPS, TARGETS, changed, folder
from recorder import Recorder

Recorder(PAD_ID, "llamafactory").listen()
(folder / "dataset_info.json").write_text(json.dumps({"records": {"file_name": "records.json"}}))
run_exp(
    {
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "template": "alpaca",
        "model_name_or_path": str(folder / "model"), "dataset": "records", "dataset_dir": str(folder),
        "cutoff_len": LENGTH, "lora_rank": RANK, "lora_alpha": ALPHA, "lora_target": ",".join(TARGETS),
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": ROWS, "max_steps": STEPS,
        "learning_rate": LEARNING_RATE, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "overwrite_cache": True, "preprocessing_num_workers": 1, "disable_tqdm": True,
        **changed,
    }
)  # fmt: skip
