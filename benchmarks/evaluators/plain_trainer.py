"""transformers' Trainer, bf16 weights.     python plain_trainer.py FOLDER RECORDS random|group_by_length"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import worker_protocol
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

folder, count, order = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
records = [json.loads(line) for line in (folder / "tokens.jsonl").read_text().splitlines()[:count]]
tokens = sum(len(record["input_ids"]) for record in records)
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
trainer = Trainer(
    AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16),
    TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_eval_batch_size=8, use_cpu=True, report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False, train_sampling_strategy=order,
    ),
    eval_dataset=Dataset.from_list(records),
    data_collator=DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8),
)  # fmt: skip


def work() -> worker_protocol.Answer:
    started = time.perf_counter()
    loss = trainer.evaluate()["eval_loss"]
    return {"tokens_per_second": tokens / (time.perf_counter() - started), "loss": loss}


worker_protocol.take_turns(work, versions=worker_protocol.versions("torch", "transformers"))
