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

from prompt import prompt
from text_generator import TASKS, TRANSLATE, Question

PASS_MARK = 0.5
LONGEST_ANSWER = 24


def main(folder: Path) -> int:
    lines = (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [Question(**json.loads(line)) for line in lines]
    tokenizer = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    base = answers(model, tokenizer, questions)
    tuned = answers(PeftModel.from_pretrained(model, folder / "adapter"), tokenizer, questions)

    console = Console(highlight=False)
    for instruction in (*TASKS, TRANSLATE):
        n = next(n for n, question in enumerate(questions) if question.instruction == instruction)
        console.print(f"{instruction} [bold]{questions[n].input}[/bold]")
        console.print(
            f"    expected  {questions[n].output}\n    base      {base[n]!r}\n    tuned     {tuned[n]}"
        )
    console.print(scores(questions, base, tuned))
    if exact_match(questions, tuned) <= PASS_MARK:
        console.print(
            f"demo: FAILED. The tuned model should answer more than {PASS_MARK:.0%} of the questions."
        )
        return 1
    return 0


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, questions: list[Question]) -> list[str]:
    """Greedily decoded, all in one batch."""
    prompts = [prompt(question) for question in questions]
    batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    written = output[:, batch["input_ids"].shape[1] :]
    decoded: list[str] = tokenizer.batch_decode(written, skip_special_tokens=True)
    return decoded


def exact_match(questions: list[Question], given: list[str]) -> float:
    """Share of the questions whose answer is the expected one, letter for letter."""
    right = sum(answer == question.output for question, answer in zip(questions, given, strict=True))
    return right / len(questions)


def scores(questions: list[Question], base: list[str], tuned: list[str]) -> Table:
    """Exact match of both models, for each instruction and for all."""
    table = Table("exact match", "base", "tuned", show_footer=True)
    for instruction in (*TASKS, TRANSLATE):
        chosen = [n for n, question in enumerate(questions) if question.instruction == instruction]
        shares = (
            exact_match([questions[n] for n in chosen], [given[n] for n in chosen]) for given in (base, tuned)
        )
        table.add_row(instruction, *(f"{share:.2f}" for share in shares))
    table.columns[0].footer = f"all {len(questions)} held-out questions"
    table.columns[1].footer = f"{exact_match(questions, base):.2f}"
    table.columns[2].footer = f"{exact_match(questions, tuned):.2f}"
    return table


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
