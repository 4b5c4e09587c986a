"""Evaluation samples: which prompts are asked, what is expected, and how answers are scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from llm_finetune.data import Prepared, PrepareSpec, Source, open_prepared, prepare
from llm_finetune.evaluation.metrics import WordTokenizer, mean_scores, rouge_l
from llm_finetune.evaluation.result import Answer, ModelEvaluation, ValidationLoss, compare
from llm_finetune.evaluation.samples import sample_answers
from llm_finetune.kernels.precision import Precision
from tiny_model import SENTENCES

FULL = Precision(torch.float32, autocast=False)


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    return model.train()


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Any) -> Callable[..., Prepared]:
    def run(rows: list[dict[str, Any]], **plan: Any) -> Prepared:
        file = tmp_path / "records.json"
        file.write_text(json.dumps(rows))
        sources = {"training": (Source(files=file),), "validation_share": 0.0, "max_length": 128}
        return open_prepared(prepare(PrepareSpec(**sources, **plan), tokenizer, tmp_path / "cache"))

    return run


def sampled(model: Any, tokenizer: Any, data: Prepared, **changes: Any) -> list[Answer]:
    options = {"count": 8, "max_new_tokens": 12, "batch_size": 3, "precision": FULL, **changes}
    return sample_answers(model, tokenizer, data.train, **options)


def test_prompts_and_answers_of_records(
    prepared: Callable[..., Prepared], model: Any, tokenizer: Any
) -> None:
    rows = [{"instruction": f"Say {i}.", "output": SENTENCES[i % 4]} for i in range(10)]
    samples = sampled(model, tokenizer, prepared(rows))
    assert [sample.expected for sample in samples] == [row["output"] for row in rows[:8]]
    for row, sample in zip(rows, samples, strict=False):
        assert sample.prompt == f"### Instruction:\n{row['instruction']}\n\n### Response:\n"
        ids = tokenizer(sample.prompt, return_tensors="pt")["input_ids"]
        output = model.eval().generate(ids, max_new_tokens=12, do_sample=False)
        assert sample.answer == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert len({sample.answer for sample in samples}) > 1


def test_of_a_conversation_the_first_answer(
    prepared: Callable[..., Prepared], model: Any, tokenizer: Any
) -> None:
    turns = ["Hello", "Hi there", "Bye", "So long"]
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    (sample,) = sampled(model, tokenizer, prepared([{"messages": messages}]))
    assert sample.prompt == "### Instruction:\nHello\n\n### Response:\n"
    assert sample.expected == "Hi there"


def test_records_that_do_not_say_where_an_answer_begins_have_none(
    prepared: Callable[..., Prepared], model: Any, tokenizer: Any
) -> None:
    assert sampled(model, tokenizer, prepared([{"text": SENTENCES[0]}], data_type="text")) == []
    rows = [{"instruction": "Say it.", "output": SENTENCES[0]}]
    assert sampled(model, tokenizer, prepared(rows, loss_on_prompt=True)) == []


def test_the_model_stays_as_it_was(prepared: Callable[..., Prepared], model: Any, tokenizer: Any) -> None:
    data = prepared([{"instruction": "Say it.", "output": SENTENCES[0]}])
    for training in (True, False):
        model.train(training)
        sampled(model, tokenizer, data)
        assert model.training == training


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),  # the examples of Lin 2004
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("a b c d", "a b", 2 * 2 / 6),
        ("The Fox, running.", "the fox running", 1.0),
        ("Größe 日本", "größe 日本!", 1.0),
        ("我喜欢猫", "我喜欢狗。", 0.75),  # no spaces: a character counts as a word
        ("मुझे चाय पसंद है", "मुझे दूध पसंद है", 0.75),  # vowel signs stay with their letters
        ("ฉันกินข้าว", "ฉันกินปลา", 2 * 5 / (7 + 7)),
        ("Cafe\u0301", "café", 1.0),
        ("a", "b", 0.0),
        ("a", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l(expected: str, answer: str, score: float) -> None:
    assert rouge_l(expected, answer) == pytest.approx(score)
    assert rouge_l(answer, expected) == pytest.approx(score)


def evaluation(*samples: tuple[str, str, str]) -> ModelEvaluation:
    answers = [Answer(prompt=prompt, expected=text, answer=answer) for prompt, text, answer in samples]
    return ModelEvaluation(loss=ValidationLoss(loss=2.0, tokens=9), samples=answers)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_tokenized_as_rouge_score_does(text: str) -> None:
    assert WordTokenizer().tokenize(text) == tokenize(text, None)


def test_scores_and_the_models_side_by_side() -> None:
    base = evaluation(("p", "a b", "x"), ("q", "c", "c"))
    tuned = evaluation(("p", "a b", " a b\n"), ("q", "c", "C"))
    result = compare(base, tuned)
    assert result
    assert result.base
    assert result.tuned
    assert result.base.metrics == {"rouge_l": 0.5, "exact_match": 0.5}
    assert result.tuned.metrics == {"rouge_l": 1.0, "exact_match": 0.5}
    assert result.to_json()["samples"][0] == {
        "prompt": "p",
        "expected": "a b",
        "base": "x",
        "tuned": " a b\n",
    }
    for alone in (compare(None, tuned), compare(base, None)):
        assert alone
        answers = [(sample.base, sample.tuned) for sample in alone.samples]
        assert answers in ([(None, " a b\n"), (None, "C")], [("x", None), ("c", None)])
    assert compare(None, None) is None
    assert mean_scores([]) == {}
