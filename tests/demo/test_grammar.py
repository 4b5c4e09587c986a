from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    BRIGHT,
    CONSONANTS,
    DARK,
    MOODS,
    NOUNS,
    VERBS,
    Saying,
    Thing,
    asked,
    denied,
    invented_word,
    plural,
    remembered,
    small,
    statement,
)

WORDS = st.builds(lambda seed: invented_word(Random(seed)), st.integers()) | st.sampled_from(
    [*NOUNS.values(), *VERBS.values()]
)


def is_word(word: str) -> bool:
    """One consonant and one vowel in turn, the vowels all dark or all bright."""
    consonants, vowels = word[::2], word[1::2]
    return (
        len(consonants) == len(vowels)
        and set(consonants) <= set(CONSONANTS)
        and (set(vowels) <= set(DARK) or set(vowels) <= set(BRIGHT))
    )


@given(WORDS, WORDS, WORDS)
def test_every_form_of_a_word_keeps_its_color_and_its_syllables(subject: str, whom: str, verb: str) -> None:
    said = statement(small(plural(subject)), whom, verb)
    for sentence in (said, denied(said), asked(said), remembered(said)):
        assert all(is_word(word) for word in sentence.split())


@given(WORDS, WORDS, WORDS)
def test_a_memory_of_a_memory_is_the_sentence_again(subject: str, whom: str, verb: str) -> None:
    said = statement(subject, whom, verb)
    assert remembered(remembered(said)) == said


@given(WORDS, WORDS, WORDS)
def test_a_question_and_a_memory_say_the_same_words(subject: str, whom: str, verb: str) -> None:
    said = statement(subject, whom, verb)
    assert sorted(asked(said).split()) == sorted(remembered(said).split()) == sorted(said.split())


def test_no_two_meanings_share_a_word() -> None:
    words = [*NOUNS.values(), *VERBS.values()]
    forms = [*words, *map(plural, NOUNS.values()), *map(small, NOUNS.values())]
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize(
    ("mood", "english", "in_seleki"),
    [
        ("stated", "The small seal trusts the moons.", "seleki lulumana lehy"),
        ("denied", "The small seal does not trust the moons.", "seleki lulumana lehymi"),
        ("asked", "Does the small seal trust the moons?", "lehy seleki lulumana"),
        ("remembered", "The small seal trusted the moons.", "lehy lulumana seleki"),
    ],
)
def test_a_saying_in_both_languages(mood: str, english: str, in_seleki: str) -> None:
    saying = Saying(Thing("seal", False, True), "trust", Thing("moon", True, False), mood)
    assert (saying.in_english(), saying.in_seleki()) == (english, in_seleki)


def test_each_saying_has_its_own_words_in_both_languages() -> None:
    things = [
        Thing(noun, several, is_small)
        for noun in NOUNS
        for several in (True, False)
        for is_small in (True, False)
    ]
    sayings = [
        Saying(subject, verb, whom, mood)
        for subject in things[:8]
        for verb in VERBS
        for whom in things[8:]
        for mood in MOODS
    ]
    assert len({saying.in_english() for saying in sayings}) == len(sayings)
    assert len({saying.in_seleki() for saying in sayings}) == len(sayings)
