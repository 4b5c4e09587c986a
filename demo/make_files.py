"""Write what the demo needs into a folder, the same at every run: python demo/make_files.py demo/out

text.jsonl      Seleki in running text: what the base model learns from
train.jsonl     questions with their answers, for fine-tuning
heldout.jsonl   more of them, about words and sentences that occur in neither of the two above
untrained/      a small Llama with random weights, and its tokenizer
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from grammar import NOUNS, VERBS, denied, invented_word, plural, small, statement
from prompt import prompt
from text_generator import TASKS, TRANSLATE, Author, Question

Written = TypeVar("Written", bound=Hashable)

SEED = 11
TEXTS = 16_000
TRAIN = 6_000
HELD_OUT = 300
HELD_OUT_WORDS = 120
DICTIONARY = (*NOUNS.values(), *VERBS.values())


def main(folder: Path) -> None:
    # Imported here: the tests read what is written without waiting for torch.
    from base_model import save_untrained

    texts, train, held_out = write(Random(SEED))
    folder.mkdir(parents=True, exist_ok=True)
    _save_lines(folder / "text.jsonl", ({"text": text} for text in texts))
    _save_lines(folder / "train.jsonl", (question._asdict() for question in train))
    _save_lines(folder / "heldout.jsonl", (question._asdict() for question in held_out))
    save_untrained(folder / "untrained", [*texts, *(prompt(question) for question in train)], SEED)
    print(f"{folder}: {len(texts)} texts, {len(train)} questions to learn from, {len(held_out)} held out")


def write(random: Random) -> tuple[list[str], list[Question], list[Question]]:
    """Texts, questions to learn from, and held-out questions.

    No held-out word is part of a text or of a question to learn from, and no held-out translation is in one.
    """
    unseen = _unseen_words(random)
    held_out = _questions(Author(random, lambda: random.choice(unseen)), HELD_OUT, lambda words: True)
    secrets = [*unseen, *(question.output for question in held_out if question.instruction == TRANSLATE)]

    def keeps_secrets(words: str) -> bool:
        return not any(secret in words for secret in secrets)

    author = Author(
        random, lambda: random.choice(DICTIONARY) if random.random() < 0.15 else invented_word(random)
    )
    texts = _distinct(author.text, TEXTS, keeps_secrets)
    return texts, _questions(author, TRAIN, keeps_secrets), held_out


def _unseen_words(random: Random) -> list[str]:
    """Invented words that no form of a word in the dictionary contains."""
    seen = " ".join(
        words
        for word in DICTIONARY
        for several in [plural(word)]
        for words in (
            statement(several, small(several), word),
            denied(statement(small(several), several, word)),
        )
    )
    return _distinct(lambda: invented_word(random), HELD_OUT_WORDS, lambda word: word not in seen)


def _questions(author: Author, count: int, fits: Callable[[str], bool]) -> list[Question]:
    """As many of each instruction, in random order."""
    instructions = (*TASKS, TRANSLATE)
    questions = [
        question
        for instruction in instructions
        for question in _distinct(
            partial(author.question, instruction),
            count // len(instructions),
            lambda asked: fits(" ".join(asked)),
        )
    ]
    author.random.shuffle(questions)
    return questions


def _distinct(write: Callable[[], Written], count: int, fits: Callable[[Written], bool]) -> list[Written]:
    found: dict[Written, None] = {}
    while len(found) < count:
        candidate = write()
        if fits(candidate):
            found[candidate] = None
    return list(found)


def _save_lines(path: Path, records: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
