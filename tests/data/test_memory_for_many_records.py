"""Memory: a big set must not need more than a small one, but for a few numbers a record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

# Five million records within 2 GB: what Python and the libraries take themselves is below 400 MB.
BYTES_A_RECORD = (2_000_000_000 - 400_000_000) / 5_000_000

PROGRAM = """
import resource, sys
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from llm_finetune.data import PrepareSpec, Source, prepare
tokenizer = PreTrainedTokenizerFast(tokenizer_file=sys.argv[1], eos_token="</s>")
prepare(PrepareSpec(training=(Source(files=Path(sys.argv[2])),)), tokenizer, Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak_bytes(records: int, folder: Path) -> int:
    path = folder / f"{records}.jsonl"
    with path.open("w") as stream:
        stream.writelines(
            f'{{"instruction": "{i}", "output": "seven green birds"}}\n' for i in range(records)
        )
    arguments = [str(folder / "tokenizer.json"), str(path), str(folder / "cache")]
    return int(subprocess.check_output([sys.executable, "-c", PROGRAM, *arguments], text=True))


def test_memory_grows_by_a_few_numbers_a_record(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    few, many = 5_000, 65_000
    growth = peak_bytes(many, tmp_path) - peak_bytes(few, tmp_path)
    assert growth < BYTES_A_RECORD * (many - few)
