# ruff: noqa: E402
"""The peer of recovery.py: transformers' Trainer as its documentation uses it, going on where it can.

python benchmarks/killed_trainer.py MODEL RECORDS OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# peft would load neural-compressor wherever it is installed, which takes longer than all the rest.
sys.modules["neural_compressor"] = None  # type: ignore[assignment]

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from recovery import SAVE_STEPS, STEPS
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint


class Tells(TrainerCallback):  # type: ignore[misc]
    """A line a step, as recovery.py reads it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            print(f"step {state.global_step}/{state.max_steps}", flush=True)


def main(model_folder: str, records: str, output: str) -> None:
    """Trains, from the last checkpoint where there is one."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def tokens(record: dict[str, str]) -> dict[str, list[int]]:
        text = f"{record['instruction']}\n{record.get('input') or ''}\n{record['output']}"
        return {"input_ids": tokenizer(text, truncation=True, max_length=128)["input_ids"]}

    rows = load_dataset("json", data_files=records, split="train")
    rows = rows.map(tokens, remove_columns=rows.column_names)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    trainer = Trainer(
        get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), lora),
        TrainingArguments(
            output,
            max_steps=STEPS,
            save_strategy="steps",
            save_steps=SAVE_STEPS,
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[Tells()],
    )
    last = get_last_checkpoint(output) if Path(output).is_dir() else None
    trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main(*sys.argv[1:4])
