"""TRL's: datasets reads the file, SFTTrainer tokenizes and packs.     python … FOLDER [PROCESSES]"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import worker_protocol
from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

folder, processes = Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1,
    )
)  # fmt: skip


def work() -> worker_protocol.Answer:
    with tempfile.TemporaryDirectory() as cache:
        config = SFTConfig(
            output_dir=f"{cache}/out", packing=True, max_length=512, dataset_num_proc=processes,
            use_cpu=True, report_to="none", bf16=False,
        )  # fmt: skip
        started = time.perf_counter()
        records = load_dataset("json", data_files=str(folder / "texts.jsonl"), split="train", cache_dir=cache)
        trainer = SFTTrainer(model, config, train_dataset=records, processing_class=tokenizer)
        seconds = time.perf_counter() - started
        rows = trainer.train_dataset
        used = sum(map(len, rows.with_format("numpy")["input_ids"][:]))
        return {"seconds": seconds, "rows": len(rows), "empty_share": 1 - used / (len(rows) * 512)}


worker_protocol.take_turns(work, versions=worker_protocol.versions("tokenizers", "datasets", "trl"))
