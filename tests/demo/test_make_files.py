from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from make_files import DICTIONARY, write
from text_generator import TASKS, TRANSLATE, Question

Written = tuple[list[str], list[Question], list[Question]]


@pytest.fixture(scope="module")
def written() -> Written:
    return write(Random(1))


def test_the_same_seed_writes_the_same(written: Written) -> None:
    assert write(Random(1)) == written


def test_held_out_words_and_translations_are_nowhere_else(written: Written) -> None:
    texts, train, held_out = written
    seen = "\n".join([*texts, *(" ".join(question) for question in train)])
    for question in held_out:
        assert question.input not in seen
        assert question.output not in seen
        if question.instruction != TRANSLATE:
            assert not any(word in seen for word in question.input.split())


def test_every_answer_follows_the_rule_of_its_instruction(written: Written) -> None:
    _, train, held_out = written
    for question in [*train, *held_out]:
        if question.instruction != TRANSLATE:
            assert question.output == TASKS[question.instruction](question.input)


def test_no_question_is_asked_twice_and_all_kinds_as_often(written: Written) -> None:
    for questions in written[1:]:
        assert len(set(questions)) == len(questions)
        assert len(set(Counter(question.instruction for question in questions).values())) == 1


def test_the_texts_teach_the_whole_dictionary(written: Written) -> None:
    words = {word.strip(".,") for text in written[0] for word in text.split()}
    assert set(DICTIONARY) <= words
