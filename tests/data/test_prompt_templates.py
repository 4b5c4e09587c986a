"""Chat templates and conversations: what is written, what is trained on, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from made_up import CHATML, Prepare, byte_level, instructions, trained_text, whole_text

from llm_finetune.errors import DataError, ModelError

CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "So long"},
        {"role": "user", "content": "unanswered"},
    ]
}


def test_chat_is_what_the_template_writes(prepared: Prepare, chat_tokenizer: Any) -> None:
    rows = instructions(10)
    result = prepared(rows, using=chat_tokenizer, prompt_format="chat", packing=False)
    assert result.summary.prompt_format == "chat"
    for i, row in enumerate(result.train):
        record = rows[result.train.provenance(i)[0][2] - 1]
        question = "\n\n".join(filter(None, [record["instruction"], record["input"]]))
        turns = [
            {"role": "system", "content": "Answer with the input." if record["input"] else "Answer."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": record["output"]},
        ]
        expected = chat_tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
        assert row.samples[0].input_ids.tolist() == expected
        asked = chat_tokenizer.apply_chat_template(turns[:2], add_generation_prompt=True)["input_ids"]
        labels = row.samples[0].labels
        assert (labels[: len(asked)] == -100).all()
        assert labels[len(asked)] >= 0
        # The end token once, and not the line end that the template writes behind it.
        assert trained_text(row, chat_tokenizer) == [record["output"] + "<|im_end|>"]


def test_each_assistant_turn_is_trained_on(prepared: Prepare, chat_tokenizer: Any, tokenizer: Any) -> None:
    chat = prepared([CONVERSATION], using=chat_tokenizer, prompt_format="chat").train[0]
    assert trained_text(chat, chat_tokenizer) == ["Hi there<|im_end|>So long<|im_end|>"]
    sections = prepared([CONVERSATION]).train[0]
    assert trained_text(sections, tokenizer) == ["Hi there</s>So long</s>"]
    assert whole_text(sections, tokenizer) == [
        "<s>Be kind.\n\n### Instruction:\nHello\n\n### Response:\nHi there</s>\n\n### Instruction:\nBye\n\n"
        "### Response:\nSo long</s>"
    ]


def test_a_template_without_the_end_token_gets_it_behind_the_last_answer(prepared: Prepare) -> None:
    tokenizer = byte_level(template=CHATML)
    row = prepared([CONVERSATION], using=tokenizer, prompt_format="chat").train[0]
    assert trained_text(row, tokenizer) == ["Hi there<|im_end|>\nSo long<|im_end|>\n</s>"]


NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
)
DEAF_TO_SYSTEM = "{% for message in messages if message['role'] != 'system' %}" + CHATML.partition("%}")[2]


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF_TO_SYSTEM])
def test_a_template_without_a_system_role_gets_it_before_the_users_text(
    prepared: Prepare, template: str
) -> None:
    tokenizer = byte_level(eos="<|im_end|>", template=template)
    row = prepared([CONVERSATION], using=tokenizer, prompt_format="chat").train[0]
    assert whole_text(row, tokenizer)[0].startswith("<|im_start|>user\nBe kind.\n\nHello<|im_end|>")


def test_a_conversation_that_the_template_refuses_is_named(prepared: Prepare) -> None:
    alternating = "{% if messages | length > 1 and messages[1]['role'] == 'user' %}"
    strict = alternating + "{{ raise_exception('roles must alternate') }}{% endif %}" + CHATML
    answer = {"role": "assistant", "content": "fine"}
    good = {"messages": [{"role": "user", "content": "a"}, answer]}
    bad = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, answer]}
    with pytest.raises(DataError, match=r"row 2: .*roles must alternate") as error:
        prepared([good, bad], using=byte_level(template=strict), prompt_format="chat")
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("name", "template", "expected"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", CHATML, "chat"),
        ("/models/Qwen-Instruct/", CHATML, "chat"),
        ("/chat-models/llama", CHATML, "alpaca"),
        ("meta-llama/Llama-2-7b-chat-hf", None, "alpaca"),
        ("meta-llama/Llama-2-7b", CHATML, "alpaca"),
    ],
)
def test_auto_asks_name_and_tokenizer(
    prepared: Prepare, name: str, template: str | None, expected: str
) -> None:
    tokenizer = byte_level(eos="<|im_end|>", template=template)
    summary = prepared(instructions(3), using=tokenizer, model_name=name).summary
    assert summary.prompt_format == expected
    assert summary.prompt_format_reason


def test_no_opening(prepared: Prepare, tokenizer: Any, chat_tokenizer: Any) -> None:
    rows = [{"instruction": "Sing", "output": "la"}]
    sections = prepared(rows, prompt_without_input="").train[0]
    assert whole_text(sections, tokenizer) == ["<s>### Instruction:\nSing\n\n### Response:\nla</s>"]
    chat = prepared(rows, using=chat_tokenizer, prompt_format="chat", prompt_without_input="").train[0]
    assert whole_text(chat, chat_tokenizer)[0].startswith("<|im_start|>user\nSing")


def test_what_a_tokenizer_must_have(prepared: Prepare) -> None:
    with pytest.raises(ModelError, match="promptFormat"):
        prepared(instructions(3), prompt_format="chat")
    without_end = byte_level()
    without_end.eos_token = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        prepared(instructions(3), using=without_end)
