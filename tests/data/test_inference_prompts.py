"""A model is asked with the very tokens that stood before the answers of its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import Prepare, byte_level, instructions

from llm_finetune.data.inference_prompts import InferencePrompt
from llm_finetune.data.prepared_dataset import Sample
from llm_finetune.data.prompt_config import PromptConfig
from llm_finetune.data.records import Conversation, Instruction, Message, Record, Text
from llm_finetune.errors import ModelError

OPENINGS = {"with_input": "Answer with the input.", "without_input": "Answer."}
TURNS = (
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hi there"),
    Message("user", "Größe? 日本"),
    Message("assistant", "So long"),
    Message("user", "Bye"),
    Message("assistant", "la la"),
)


def before_answers(segment: Sample) -> list[list[int]]:
    """The tokens before each run of trained ones."""
    trained = (segment.labels >= 0).tolist()
    starts = [i for i, is_trained in enumerate(trained) if is_trained and not trained[i - 1]]
    return [segment.input_ids[:start].tolist() for start in starts]


@pytest.mark.parametrize("prompt_format", ["alpaca", "chat"])
def test_instructions(prepared: Prepare, tokenizer: Any, chat_tokenizer: Any, prompt_format: str) -> None:
    using = chat_tokenizer if prompt_format == "chat" else tokenizer
    rows = instructions(30)
    split = prepared(rows, using=using, prompt_format=prompt_format, packing=False).train
    asking = InferencePrompt(using, PromptConfig(format=prompt_format, **OPENINGS))
    for i, row in enumerate(split):
        record = rows[split.provenance(i)[0][2] - 1]
        asked: list[Record] = [Instruction(record["instruction"], record["input"], "")]
        if not record["input"]:
            asked.append(Conversation((Message("user", record["instruction"]),)))
        for question in asked:
            assert [asking.ids(question)] == before_answers(row.samples[0])


@pytest.mark.parametrize("prompt_format", ["alpaca", "chat"])
@pytest.mark.parametrize("first", [0, 1])
def test_every_turn_of_a_conversation(
    prepared: Prepare, tokenizer: Any, chat_tokenizer: Any, prompt_format: str, first: int
) -> None:
    using = chat_tokenizer if prompt_format == "chat" else tokenizer
    turns = TURNS[first:]
    row = {"messages": [turn._asdict() for turn in turns]}
    segment = prepared([row], using=using, prompt_format=prompt_format).train[0].samples[0]
    # Conversations have no opening in the chat format; in sections theirs is the one without input.
    openings = OPENINGS if prompt_format == "alpaca" else {"with_input": "", "without_input": ""}
    asking = InferencePrompt(using, PromptConfig(format=prompt_format, **openings))
    answered = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    assert [asking.ids(Conversation(turns[:i])) for i in answered] == before_answers(segment)


def test_text_is_gone_on_with(prepared: Prepare, tokenizer: Any) -> None:
    (segment,) = prepared([{"text": "the cat sat"}], data_type="text").train[0].samples
    asking = InferencePrompt(tokenizer, PromptConfig(format="text", **OPENINGS))
    assert asking.ids(Text("the cat sat")) == segment.input_ids[:-1].tolist()
    assert segment.input_ids[-1] == tokenizer.eos_token_id


def test_a_model_that_does_not_say_is_asked_by_its_template_or_as_text(
    tokenizer: Any, chat_tokenizer: Any
) -> None:
    chat, text = InferencePrompt(chat_tokenizer, None), InferencePrompt(tokenizer, None)
    assert (chat.format, text.format) == ("chat", "text")
    turns = [{"role": "user", "content": "Hello"}]
    expected = chat_tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert chat.ids(Conversation((Message("user", "Hello"),))) == expected


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"format": "poem", **OPENINGS},
        {"format": "text", "with_input": None, "without_input": ""},
        {"format": "chat", **OPENINGS},
    ],
)
def test_a_prompt_config_that_makes_no_sense_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "prompt_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"prompt_config\.json"):
        InferencePrompt(byte_level(), PromptConfig.read(tmp_path))


def test_the_first_records_come_in_the_order_of_the_file(prepared: Prepare, tokenizer: Any) -> None:
    rows = instructions(20)
    split = prepared(rows).train
    whole = [tokenizer.decode(segment.input_ids) for segment in split.first_records(5)]
    assert len(whole) == 5
    assert all(row["output"] in text for row, text in zip(rows, whole, strict=False))
    assert len(split.first_records(100)) == 20
