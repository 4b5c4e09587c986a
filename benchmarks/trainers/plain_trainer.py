"""transformers' Trainer: fp32 weights under autocast (the old recipe), or bf16 weights."""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from peft import get_peft_model
from recipe import LEARNING_RATE, LENGTH, PAD_ID, ROWS, STEPS, changed, folder, lines, lora
from recorder import Recorder
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

Recorder(PAD_ID).listen()
old, data = changed["old"], changed["data"]
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32 if old else torch.bfloat16)
if not changed.get("full"):
    model = get_peft_model(model, lora())
records = lines("tokens.jsonl")
if data == "blocks":  # as run_clm.py of transformers' examples: end to end, cut every LENGTH tokens
    joined = {name: [x for record in records for x in record[name]] for name in ("input_ids", "labels")}
    starts = range(0, len(joined["input_ids"]) - LENGTH, LENGTH)
    records = [{name: joined[name][start : start + LENGTH] for name in joined} for start in starts]
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=changed.get("rows", ROWS), max_steps=STEPS,
    learning_rate=LEARNING_RATE, bf16=old, use_cpu=True, report_to="none", save_strategy="no",
    logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False,
    train_sampling_strategy="group_by_length" if data == "grouped" else "random",
)  # fmt: skip
Trainer(
    model,
    arguments,
    train_dataset=Dataset.from_list(records),
    data_collator=DataCollatorForSeq2Seq(
        AutoTokenizer.from_pretrained(folder / "model"), pad_to_multiple_of=8
    ),
).train()
