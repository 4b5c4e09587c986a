"""How a question is put to the model: as the fine-tuning run puts it."""

from __future__ import annotations

from pathlib import Path

import yaml

from text_generator import Question

VALUES = Path(__file__).parent / "finetune_values.yaml"
OPENING = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["distributed"]["train"]["promptWithInput"]


def prompt(question: Question) -> str:
    sections = (
        OPENING,
        f"### Instruction:\n{question.instruction}",
        f"### Input:\n{question.input}",
        "### Response:\n",
    )
    return "\n\n".join(sections)
