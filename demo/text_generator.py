"""What is written in Seleki: running texts to learn the language from, and questions about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import NamedTuple

import grammar
from grammar import MOODS, NOUNS, VERBS, Saying, Thing

TASKS: dict[str, Callable[[str], str]] = {
    "Put this into the plural.": grammar.plural,
    "Make this small.": grammar.small,
    "Deny this.": grammar.denied,
    "Ask this.": grammar.asked,
    "Tell this as a memory.": grammar.remembered,
}
ABOUT_WORDS = ("Put this into the plural.", "Make this small.")
TRANSLATE = "Translate into Seleki."


class Question(NamedTuple):
    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Author:
    """Writes with the words that `word` gives, and in translations with those of the dictionary."""

    random: Random
    word: Callable[[], str]

    def text(self) -> str:
        kinds = (self.entry, self.moods, self.story)
        [kind] = self.random.choices(kinds, weights=(1, 2, 2))
        return kind()

    def entry(self) -> str:
        """A word as a dictionary has it."""
        word = self.word()
        several = grammar.plural(word)
        return (
            f"One {word}, the plural {several}. "
            f"A small {word} is {grammar.small(word)}, the plural {grammar.small(several)}."
        )

    def moods(self) -> str:
        """A statement, and the other ways to tell it."""
        statement = self.statement()
        others = (
            f"Deny this: {grammar.denied(statement)}.",
            f"Ask this: {grammar.asked(statement)}.",
            f"As a memory: {grammar.remembered(statement)}.",
        )
        return " ".join((f"Say this: {statement}.", *self.random.sample(others, len(others))))

    def story(self) -> str:
        """Two sayings in both languages; whom the first is about acts in the second."""
        first = self.saying()
        second = self.saying(subject=first.whom)
        english = [saying.in_english() for saying in (first, second)]
        translated = [f"{saying.in_seleki()}." for saying in (first, second)]
        # A translation must be found although it is not always next to its sentence.
        lines = (
            zip(english, translated, strict=True)
            if self._chance(0.5)
            else (english, ["In Seleki:"], translated)
        )
        return " ".join(chain.from_iterable(lines))

    def question(self, instruction: str) -> Question:
        if instruction == TRANSLATE:
            saying = self.saying()
            return Question(instruction, saying.in_english(), saying.in_seleki())
        asked_of = self.word() if instruction in ABOUT_WORDS else self.statement()
        return Question(instruction, asked_of, TASKS[instruction](asked_of))

    def statement(self) -> str:
        return grammar.statement(self._noun(), self._noun(), self.word())

    def saying(self, subject: Thing | None = None) -> Saying:
        subject = subject or self._thing(self.random.choice(list(NOUNS)))
        whom = self._thing(self.random.choice([noun for noun in NOUNS if noun != subject.noun]))
        return Saying(subject, self.random.choice(list(VERBS)), whom, self.random.choice(list(MOODS)))

    def _noun(self) -> str:
        noun = grammar.plural(self.word()) if self._chance(0.3) else self.word()
        return grammar.small(noun) if self._chance(0.2) else noun

    def _thing(self, noun: str) -> Thing:
        return Thing(noun, is_plural=self._chance(0.4), is_small=self._chance(0.3))

    def _chance(self, share: float) -> bool:
        return self.random.random() < share
