"""One side of the comparison in its own process and environment: python sides.py NAME FOLDER STEPS.

FOLDER holds what `inputs.py` made: the model, the records as text and as tokens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from recorder import Recorder

RANK, ALPHA, ROWS, LENGTH = 8, 16, 4, 512
TARGETS = ["q_proj", "v_proj"]


def ours(folder: Path, steps: int, *, speed: str = "auto", **changed: Any) -> None:
    """The project's own job, from its settings on."""
    from llm_finetune.cli import app

    train = {
        "datasetName": None, "dataFile": str(folder / "records.json"), "promptFormat": "sections",
        "perDeviceBatchSize": ROWS, "maxSeqLength": LENGTH, "maxSteps": steps, "learningRate": 2e-4,
        "loraRank": RANK, "loraAlpha": ALPHA, "loraDropout": 0, "outputDir": str(folder / "out"),
        "saveStrategy": "no", "reportTo": None, "loggingSteps": 1,
        "speed": dict.fromkeys(("attention", "head", "layers", "adapters"), speed),
    }  # fmt: skip
    values = {"distributed": {"modelNameOrPath": str(folder / "model"), "doEval": False,
                              "train": {**train, **changed}}}  # fmt: skip
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    app(["run", "-f", str(file), "--fresh"], standalone_mode=False)


def trainer(folder: Path, steps: int, *, old: bool, data: str, rows: int = ROWS, full: bool = False) -> None:
    """transformers' Trainer: fp32 weights under autocast (old), or bf16 weights; rows as `data` says."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments,
    )  # fmt: skip

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32 if old else torch.bfloat16
    )
    if not full:
        model = get_peft_model(
            model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
        )
    records = [json.loads(line) for line in (folder / "tokens.jsonl").read_text().splitlines()]
    if data == "blocks":  # as run_clm.py of transformers' examples: end to end, cut every LENGTH tokens
        joined = {name: [x for record in records for x in record[name]] for name in ("input_ids", "labels")}
        starts = range(0, len(joined["input_ids"]) - LENGTH, LENGTH)
        records = [{name: joined[name][start : start + LENGTH] for name in joined} for start in starts]
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), per_device_train_batch_size=rows, max_steps=steps, learning_rate=2e-4,
        bf16=old, use_cpu=True, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length" if data == "grouped" else "random",
    )  # fmt: skip
    Trainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(records),
        data_collator=DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8),
    ).train()


def trl(folder: Path, steps: int, **changed: Any) -> None:
    """TRL's SFTTrainer on prompts and completions; `changed` beyond what it does as installed."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    records = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    config = SFTConfig(
        output_dir=str(folder / "out"), max_steps=steps, learning_rate=2e-4, report_to="none",
        save_strategy="no", logging_steps=1, use_cpu=True, max_length=LENGTH, disable_tqdm=True, **changed,
    )  # fmt: skip
    SFTTrainer(
        model=str(folder / "model"),
        args=config,
        train_dataset=Dataset.from_list(records),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM"),
    ).train()


def llamafactory(folder: Path, steps: int, **changed: Any) -> None:
    """LLaMA-Factory on the records in its Alpaca form."""
    from llamafactory.train.tuner import run_exp

    (folder / "dataset_info.json").write_text(json.dumps({"records": {"file_name": "records.json"}}))
    run_exp(
        {
            "stage": "sft", "do_train": True, "finetuning_type": "lora", "template": "alpaca",
            "model_name_or_path": str(folder / "model"), "dataset": "records", "dataset_dir": str(folder),
            "cutoff_len": LENGTH, "lora_rank": RANK, "lora_alpha": ALPHA, "lora_target": ",".join(TARGETS),
            "output_dir": str(folder / "out"), "per_device_train_batch_size": ROWS, "max_steps": steps,
            "learning_rate": 2e-4, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
            "use_cpu": True, "overwrite_cache": True, "preprocessing_num_workers": 1, "disable_tqdm": True,
            **changed,
        }
    )  # fmt: skip


SIDES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ours": (ours, {}),
    "ours, speed off": (ours, {"speed": "off"}),
    "Trainer, bf16, grouped by length": (trainer, {"old": False, "data": "grouped", "rows": 8}),
    "LLaMA-Factory, neat packing": (
        llamafactory,
        {"neat_packing": True, "pure_bf16": True, "disable_gradient_checkpointing": True, "lora_dropout": 0.0},
    ),
    "TRL, packing": (
        trl,
        {
            "packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4,
            "gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16"},
        },
    ),
    "TRL as installed": (trl, {}),
    "old recipe, blocks": (trainer, {"old": True, "data": "blocks"}),
    "old recipe, padded": (trainer, {"old": True, "data": "padded", "rows": 8}),
    "ours, all weights": (ours, {"useLora": False}),
    "Trainer, bf16, blocks, all weights": (trainer, {"old": False, "data": "blocks", "full": True}),
    "ours, short records and a long one": (ours, {"perDeviceBatchSize": 1, "maxSeqLength": 4096}),
}  # fmt: skip


def main(name: str, folder: Path, steps: int) -> None:
    pad_id = json.loads((folder / "facts.json").read_text())["pad_id"]
    run, arguments = SIDES[name]
    if run is ours:  # what its command does first, before this process has imported anything heavy
        from llm_finetune.distributed import allocator

        allocator.start_again_with(allocator.wanted("auto", os.environ))
    recorder = Recorder(pad_id)
    run(folder, steps, **arguments)
    recorder.write()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
