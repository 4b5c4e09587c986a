"""What all sides train the same, and how each reads it: python SIDE.py FOLDER JSON.

FOLDER holds what inputs.py made: the model, the records as text and as tokens. JSON: what is set otherwise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RANK, ALPHA, ROWS, LENGTH, LEARNING_RATE = 8, 16, 4, 512, 2e-4
TARGETS = ["q_proj", "v_proj"]
STEPS = 100
"""Of the learning rate's schedule; far fewer are measured."""
PAD_ID = 0

folder = Path(sys.argv[1])
changed: dict[str, Any] = json.loads(sys.argv[2])


def lines(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
