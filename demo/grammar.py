"""Seleki, the speech of seal pups: its whole grammar and its dictionary.

Every syllable is one consonant and one vowel. A word is dark (a, o, u) or bright (e, i, y) throughout, and
an ending takes the color of its word. For many, the first syllable is doubled. A sentence names who,
whom, and what is done. A question begins with what is done. A memory is spoken backwards, last word first.

    sele  seleki  sesele        a seal, a small seal, seals
    luma  lumaku  luluma        a moon, a small moon, moons

    sele lumana torano          The seal follows the moon.
    sele lumana toranomo        The seal does not follow the moon.
    torano sele lumana          Does the seal follow the moon?
    torano lumana sele          The seal followed the moon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

CONSONANTS = "hklmnprstv"
DARK = "aou"
BRIGHT = "eiy"

NOUNS = {
    "seal": "sele",
    "moon": "luma",
    "shell": "kiri",
    "reef": "holu",
    "crab": "kokara",
    "gull": "kivihe",
    "boat": "tavo",
    "star": "nysi",
    "pearl": "kato",
    "squid": "muhoru",
    "otter": "nipely",
    "storm": "ruvona",
    "island": "salomo",
    "lantern": "lyresi",
}
VERBS = {
    "follow": "torano",
    "call": "huvu",
    "trust": "lehy",
    "remember": "pakoro",
    "fear": "miry",
    "guard": "sivi",
    "greet": "hyteli",
    "need": "rasu",
}


def invented_word(random: Random) -> str:
    """A word of two or three syllables that Seleki could have."""
    vowels = random.choice((DARK, BRIGHT))
    syllables = random.choice((2, 3))
    return "".join(random.choice(CONSONANTS) + random.choice(vowels) for _ in range(syllables))


def plural(noun: str) -> str:
    """The first syllable is doubled."""
    return noun[:2] + noun


def small(noun: str) -> str:
    return _with_ending(noun, dark="ku", bright="ki")


def statement(subject: str, whom: str, verb: str) -> str:
    """Who, whom, and what is done. The ending of the second tells that it is done to them."""
    return f"{subject} {_with_ending(whom, dark='na', bright='ne')} {verb}"


def denied(sentence: str) -> str:
    """An ending on what is done."""
    return _with_ending(sentence, dark="mo", bright="mi")


def asked(sentence: str) -> str:
    """What is done comes first."""
    *others, verb = sentence.split()
    return " ".join((verb, *others))


def remembered(sentence: str) -> str:
    """The words from the last to the first."""
    return " ".join(reversed(sentence.split()))


def _with_ending(word: str, *, dark: str, bright: str) -> str:
    return word + (dark if word[-1] in DARK else bright)


@dataclass(frozen=True)
class Thing:
    """Someone or something in a sentence, by its English name."""

    noun: str
    is_plural: bool
    is_small: bool

    def in_seleki(self) -> str:
        word = NOUNS[self.noun]
        word = plural(word) if self.is_plural else word
        return small(word) if self.is_small else word

    def in_english(self) -> str:
        return f"the {'small ' * self.is_small}{self.noun}{'s' * self.is_plural}"


@dataclass(frozen=True)
class Saying:
    """What somebody does to somebody, in both languages. `mood` is a key of MOODS."""

    subject: Thing
    verb: str
    whom: Thing
    mood: str

    def in_seleki(self) -> str:
        return MOODS[self.mood](statement(self.subject.in_seleki(), self.whom.in_seleki(), VERBS[self.verb]))

    def in_english(self) -> str:
        who, verb, whom = self.subject.in_english(), self.verb, self.whom.in_english()
        several = self.subject.is_plural
        sentence = {
            "stated": f"{who} {verb}{'s' * (not several)} {whom}.",
            "denied": f"{who} {'do' if several else 'does'} not {verb} {whom}.",
            "asked": f"{'do' if several else 'does'} {who} {verb} {whom}?",
            "remembered": f"{who} {verb.removesuffix('e')}ed {whom}.",
        }[self.mood]
        return sentence[0].upper() + sentence[1:]


MOODS: dict[str, Callable[[str], str]] = {
    "stated": str,
    "denied": denied,
    "asked": asked,
    "remembered": remembered,
}
