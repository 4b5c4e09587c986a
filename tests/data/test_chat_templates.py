"""Chat templates as models bring them: each answer is trained on behind what is written when it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import CHATML, Prepare, byte_level, instructions, trained_text, whole_text
from test_inference_prompts import TURNS, before_answers

from llm_finetune.data import PrepareSpec, Source, preview
from llm_finetune.data.inference_prompts import InferencePrompt
from llm_finetune.data.prompt_config import PromptConfig
from llm_finetune.data.records import Conversation
from llm_finetune.errors import DataError, ModelError

# Qwen3: an empty thought before the answers behind the last question, and before no other.
THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# R1-Distill: a thought is begun where an answer is asked for, and left out where one is there.
BEGUN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# Mistral: the system's text stands in the last question.
SYSTEM_LAST = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}<|im_start|>"
    "{% if messages[ns.last] == m and messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "{{ m.content }}<|im_start|>{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
COUNTED = "{{ messages | length }} " + CHATML
CONVERSATION = {"messages": [turn._asdict() for turn in TURNS]}
ANSWERS = ["Hi there", "So long", "la la"]


def chat_model(template: str) -> Any:
    return byte_level(eos="<|im_end|>", template=template)


@pytest.mark.parametrize("template", [THINKING, BEGUN, SYSTEM_LAST, COUNTED])
def test_each_answer_stands_behind_what_is_written_when_it_is_asked_for(
    prepared: Prepare, template: str
) -> None:
    tokenizer = chat_model(template)
    result = prepared([CONVERSATION], using=tokenizer, prompt_format="chat", packing=False)
    asking = InferencePrompt(tokenizer, PromptConfig(format="chat", with_input="", without_input=""))
    places = [place for place, turn in enumerate(TURNS) if turn.role == "assistant"]
    segments = [row.samples[0] for row in result.train]
    assert [before_answers(segment) for segment in segments] == [
        [asking.ids(Conversation(TURNS[:place]))] for place in places
    ]
    for row, answer in zip(result.train, ANSWERS, strict=True):
        assert trained_text(row, tokenizer)[0].endswith(answer + "<|im_end|>")
    assert (result.summary.train.records, result.summary.train.taken_apart) == (1, 1)


def test_answers_that_follow_one_another_stay_one_sequence(prepared: Prepare, chat_tokenizer: Any) -> None:
    result = prepared([CONVERSATION], using=chat_tokenizer, prompt_format="chat")
    assert trained_text(result.train[0], chat_tokenizer) == ["".join(f"{one}<|im_end|>" for one in ANSWERS)]
    assert (len(result.train), result.summary.train.taken_apart) == (1, 0)


@pytest.mark.parametrize("template", [CHATML, THINKING, None])
def test_history_can_be_masked(prepared: Prepare, template: str | None) -> None:
    tokenizer = byte_level(eos="<|im_end|>", template=template)
    result = prepared([CONVERSATION], using=tokenizer, mask_history=True)
    (segment,) = result.train[0].samples
    assert trained_text(result.train[0], tokenizer)[0].endswith("la la<|im_end|>")
    assert "Hi there" not in trained_text(result.train[0], tokenizer)[0]
    assert "Hi there" in whole_text(result.train[0], tokenizer)[0]
    assert len(before_answers(segment)) == 1


def test_turns_of_one_conversation_stay_on_one_side(prepared: Prepare) -> None:
    def talk(number: int) -> dict[str, Any]:
        said = [("user", f"question {number}"), ("assistant", f"answer {number}")] * 3
        return {"messages": [{"role": role, "content": text} for role, text in said]}

    result = prepared(
        [talk(number) for number in range(20)],
        using=chat_model(THINKING),
        validation_share=0.25,
        max_samples=8,
        max_validation_samples=4,
        packing=False,
    )
    assert result.validation
    assert result.summary.prompt_format == "chat"  # auto takes the template for conversations
    sides = [
        [split.provenance(index)[0][2] for index in range(len(split))]
        for split in (result.train, result.validation)
    ]
    assert not set(sides[0]) & set(sides[1])
    assert [len(set(side)) for side in sides] == [8, 4]
    assert [len(side) for side in sides] == [24, 12]
    assert result.summary.validation
    assert (result.summary.train.records, result.summary.validation.records) == (8, 4)


@pytest.mark.parametrize("written", ["", "{{ m.content[:2] }}", "{{ m.content | upper }}"])
def test_an_answer_that_the_template_leaves_out_is_refused(
    prepared: Prepare, tmp_path: Path, written: str
) -> None:
    deaf = CHATML.replace("{{ message['content'] }}", "{{ message['content'] if message['role'] == 'user' }}")
    deaf = deaf.replace("<|im_end|>", written.replace("m.content", "message['content']") + "<|im_end|>")
    with pytest.raises(
        DataError, match=r"records\.json, row 1: .*chat template leaves the answer out"
    ) as error:
        prepared(instructions(3), using=chat_model(deaf), prompt_format="chat", prompt_without_input="")
    assert len(error.value.problems) == 3
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    "content", ["  {{ message['content'] | trim }}\n", "{{ message['content'].split() | join }}"]
)
def test_white_space_may_be_another(prepared: Prepare, content: str) -> None:
    tokenizer = chat_model(CHATML.replace("{{ message['content'] }}", content))
    rows = [{"instruction": "go", "output": " two\n words "}]
    assert (
        "words" in trained_text(prepared(rows, using=tokenizer, prompt_format="chat").train[0], tokenizer)[0]
    )


@pytest.mark.parametrize("template", [BEGUN, BEGUN.replace("<think>\n", "")])
def test_thoughts_that_the_template_leaves_out_are_counted(
    prepared: Prepare, tmp_path: Path, template: str
) -> None:
    thought = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>hm</think>\n\nyes"}]
    plain = [{"role": "user", "content": "b"}, {"role": "assistant", "content": "no"}]
    tokenizer = chat_model(template)
    result = prepared([{"messages": thought}, {"messages": plain}], using=tokenizer, packing=False)
    assert [text.strip() for row in result.train for text in trained_text(row, tokenizer)] == [
        "yes<|im_end|>",
        "no<|im_end|>",
    ]
    assert result.summary.train.lost_thoughts == 1
    plan = PrepareSpec(training=(Source(files=tmp_path / "records.json"),), validation_share=0)
    assert preview(plan, tokenizer).lost_thoughts == 1


HOSTILE = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}ok": "5 seconds",
    "{{ 'x' * 10**10 }}": "1 GB of memory",
    "{{ 'x' | center(10**10) }}": "1 GB of memory",
    "{{ 'x' * 50 * 10**6 }}": "33,554,432 characters",
}


@pytest.mark.parametrize("template", HOSTILE)
def test_a_template_that_needs_too_much_is_stopped(prepared: Prepare, tmp_path: Path, template: str) -> None:
    with pytest.raises(ModelError, match=f"chat template .*{HOSTILE[template]}"):
        prepared(instructions(3), using=chat_model(template), prompt_format="chat")
    # Also where only some record sets it off: that one is named.
    rows = [*instructions(3), {"instruction": "now", "output": "a"}]
    trap = CHATML + "{% if messages[-1].content == 'now' %}" + template + "{% endif %}"
    with pytest.raises(ModelError, match=rf"records\.json, row 4: .*{HOSTILE[template]}"):
        prepared(rows, using=chat_model(trap), prompt_format="chat", prompt_without_input="")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1/0 }}",
        "{{ ''.index('x') }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for %}",
        "{{ messages[9].content.x.y }}",
        '{{ "\\ud800" }}',
        "{{ [].__class__ }}{{ raise_exception('line one\nline two') }}",
    ],
)
def test_whatever_a_template_raises_is_one_line(prepared: Prepare, template: str) -> None:
    with pytest.raises(DataError, match="row 1: the tokenizer's chat template refuses") as error:
        prepared(instructions(1), using=chat_model(template), prompt_format="chat")
    assert "\n" not in str(error.value)


def test_a_template_sees_nothing_of_this_process(prepared: Prepare, chat_tokenizer: Any) -> None:
    """And its process goes with the prompt that asked it."""
    import gc
    import os

    def children() -> str:
        gc.collect()
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    before = children()
    prepared(instructions(5), using=chat_tokenizer, prompt_format="chat")
    assert children() == before


def test_named_templates_without_a_default(prepared: Prepare) -> None:
    tokenizer = byte_level(eos="<|im_end|>")
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    result = prepared(instructions(3), using=tokenizer, model_name="a-chat-model")
    assert result.summary.prompt_format == "alpaca"
    assert "rag, tool_use" in result.summary.prompt_format_reason
    assert prepared([CONVERSATION], using=tokenizer).summary.prompt_format == "alpaca"
    with pytest.raises(ModelError, match=r"rag, tool_use.*default.*promptFormat"):
        prepared(instructions(3), using=tokenizer, prompt_format="chat")
    assert InferencePrompt(tokenizer, None).format == "text"
    tokenizer.chat_template = {"default": CHATML, "tool_use": "x"}
    assert prepared([CONVERSATION], using=tokenizer).summary.prompt_format == "chat"
