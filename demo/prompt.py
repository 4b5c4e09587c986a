"""How a question is put to the model: as the fine-tuning run puts it."""

from __future__ import annotations

from pathlib import Path

import yaml

from author import Question

VALUES = Path(__file__).parent / "finetune_values.yaml"
OPENING = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["distributed"]["train"]["promptWithInput"]


def prompt(question: Question) -> str:
    return f"{OPENING}\n\n### Instruction:\n{question.instruction}\n\n### Input:\n{question.input}\n\n### Response:\n"
