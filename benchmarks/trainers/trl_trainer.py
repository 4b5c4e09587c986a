"""TRL's SFTTrainer on prompts and completions."""

from __future__ import annotations

import tempfile

from datasets import Dataset
from recipe import LEARNING_RATE, LENGTH, PAD_ID, STEPS, changed, folder, lines, lora
from recorder import Recorder
from trl import SFTConfig, SFTTrainer

Recorder(PAD_ID, "trl").listen()
config = SFTConfig(
    output_dir=tempfile.mkdtemp(), max_steps=STEPS, learning_rate=LEARNING_RATE, report_to="none",
    save_strategy="no", logging_steps=1, use_cpu=True, max_length=LENGTH, disable_tqdm=True, **changed,
)  # fmt: skip
SFTTrainer(
    model=str(folder / "model"),
    args=config,
    train_dataset=Dataset.from_list(lines("texts.jsonl")),
    peft_config=lora(),
).train()
