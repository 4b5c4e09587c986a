"""Ask the base model and the tuned one the held-out questions: python demo/exact_match.py demo/out

Only transformers and peft are used, as by anybody who was given the two folders and the form of the prompt.
Exit code 1: the tuned model did not learn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from author import Question
from prompt import prompt

PASS_MARK = 0.5
LONGEST_ANSWER = 32


def main(folder: Path) -> int:
    questions = [
        Question(**json.loads(line))
        for line in (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    base_answers = answers(base, tokenizer, questions)
    tuned_answers = answers(PeftModel.from_pretrained(base, folder / "adapter"), tokenizer, questions)
    console = Console()
    console.print(samples(questions, base_answers, tuned_answers))
    base_share, tuned_share = exact_match(questions, base_answers), exact_match(questions, tuned_answers)
    console.print(
        f"Exact match on {len(questions)} held-out questions: base {base_share:.2f}, tuned {tuned_share:.2f}"
    )
    if tuned_share <= PASS_MARK:
        console.print(f"demo: FAILED. The tuned model should answer more than {PASS_MARK:.0%} of them.")
        return 1
    return 0


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, questions: list[Question]) -> list[str]:
    """Greedily decoded, all in one batch."""
    prompts = [prompt(question) for question in questions]
    batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    decoded: list[str] = tokenizer.batch_decode(
        output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return decoded


def exact_match(questions: list[Question], given: list[str]) -> float:
    """Share of the questions whose answer is the expected one, letter for letter."""
    right = sum(answer == question.output for question, answer in zip(questions, given, strict=True))
    return right / len(questions)


def samples(questions: list[Question], base_answers: list[str], tuned_answers: list[str]) -> Table:
    """The first question of each instruction, with what was expected and what was answered."""
    table = Table("question", "expected", "base", "tuned")
    shown: set[str] = set()
    for question, base, tuned in zip(questions, base_answers, tuned_answers, strict=True):
        if question.instruction not in shown:
            shown.add(question.instruction)
            table.add_row(
                f"{question.instruction}\n{question.input}", question.output, base.strip()[:24], tuned
            )
    return table


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
