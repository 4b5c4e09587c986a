"""Text while its tokens come: whole characters, stop strings, and in the end what the tokenizer says."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llm_finetune.generation.decoding import Token
from llm_finetune.generation.detokenization import Answer, Detokenizer, answers
from tiny_model import tiny_model

SPECIALS = ["<pad>", "<s>", "</s>"]


def byte_level() -> PreTrainedTokenizerFast:
    """Each byte a token, and a few words, in the way of GPT-2, Llama 3 and Qwen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*SPECIALS, *alphabet, "th", "the", "Ġthe", "ĠÃ"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "Ã")]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def byte_fallback() -> PreTrainedTokenizerFast:
    """Words with their space in front, unknown characters as bytes, in the way of Llama 2."""
    pieces = ["▁", "th", "the", "▁the", *string.ascii_letters, *".,!"]
    vocabulary = ["<unk>", *SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    backend = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocabulary)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


def whole(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(token) for token in ids), detokenizer.rest()]


def tokens(tokenizer: Any, text: str) -> list[Token]:
    return [Token(token, 0.0) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


@KINDS
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_pieces_of_any_tokens_are_the_tokenizers_text(kind: str, data: st.DataObject) -> None:
    """Broken characters, lone spaces and special tokens in the middle among them, and ids without a token."""
    tokenizer = TOKENIZERS[kind]
    known = st.integers(0, len(tokenizer) + 1)
    space_and_bytes = st.sampled_from(tokenizer("the é日 😀  x", add_special_tokens=False)["input_ids"])
    ids = data.draw(st.lists(st.one_of(known, space_and_bytes, st.sampled_from([1, 2, 3])), max_size=30))
    assert "".join(pieces(tokenizer, ids)) == whole(tokenizer, ids)


@KINDS
@given(text=st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_piece_of_a_text_holds_half_a_character(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    text = text.replace("\N{REPLACEMENT CHARACTER}", "")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = pieces(tokenizer, ids)
    assert "".join(shown) == whole(tokenizer, ids)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in shown)


@KINDS
def test_words_are_shown_as_they_come(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer("the cat the 😀 end", add_special_tokens=False)["input_ids"]
    shown = pieces(tokenizer, ids)
    assert shown[-1] == ""
    # All but the bytes of the one character of several: they are shown with the last or the next token.
    assert sum(not piece for piece in shown[:-1]) == (3 if kind == "byte level" else 4)


@KINDS
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_text_that_goes_on_with_other_text_joins_it(kind: str, data: st.DataObject) -> None:
    """The space between the two, which a text of its own would not begin with, among it."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer("the cat, the end 日本.")["input_ids"]
    before = data.draw(st.sampled_from([n for n in range(len(ids)) if whole_characters(tokenizer, ids[:n])]))
    detokenizer = Detokenizer(tokenizer, after=ids[:before])
    shown = [*(detokenizer.add(token) for token in ids[before:]), detokenizer.rest()]
    assert whole(tokenizer, ids[:before]) + "".join(shown) == whole(tokenizer, ids)


def whole_characters(tokenizer: Any, ids: list[int]) -> bool:
    return "\N{REPLACEMENT CHARACTER}" not in whole(tokenizer, ids)


@KINDS
def test_the_work_of_a_step_does_not_grow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS[kind]
    decoded: list[int] = []
    decode = type(tokenizer).decode
    monkeypatch.setattr(
        type(tokenizer),
        "decode",
        lambda self, ids, **options: (decoded.append(len(ids)), decode(self, ids, **options))[1],
    )
    pieces(tokenizer, tokenizer("the cat sat on the 日本 mat. " * 20, add_special_tokens=False)["input_ids"])
    assert max(decoded) <= 12


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("e t",), "on"),
        ("one two three", ("nothing", "three"), "one two "),
        ("one two three", ("two three four",), "one two three"),
        ("aab", ("ab",), "a"),
        ("abc", ("bc", "abc"), ""),
        ("the the", (" the",), "the"),
        ("the", ("the", "h"), "t"),  # one token, in which the shorter one is complete first
        ("日本語", ("本",), "日"),
        ("one", ("one",), ""),
    ],
)
@KINDS
def test_an_answer_ends_before_a_stop_string(kind: str, text: str, stop: tuple[str, ...], left: str) -> None:
    tokenizer = TOKENIZERS[kind]
    answer = Answer(tokenizer, end_ids=(), stop=stop)
    assert "".join(answer.pieces(tokens(tokenizer, text))) == left
    assert answer.ended == (left != text)


@KINDS
def test_nothing_after_the_end_is_asked_for(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    end = tokenizer.eos_token_id
    for stop, come in (
        ((), [*tokens(tokenizer, "a b"), Token(end, 0.0)]),
        (("b",), tokens(tokenizer, "a b")),
    ):

        def tokens_and_no_more(come: list[Token] = come) -> Any:
            yield from come
            pytest.fail("asked for a token after the end")

        answer = Answer(tokenizer, {end}, stop)
        assert "".join(answer.pieces(tokens_and_no_more())) == ("a " if stop else "a b")
        assert answer.ended


def test_what_looks_like_a_stop_string_waits_and_is_shown_after_all() -> None:
    tokenizer = TOKENIZERS["byte level"]
    answer = Answer(tokenizer, (), ("abcd",))
    shown = [answer.add(token) for token in tokens(tokenizer, "xabcab")]
    assert shown == ["x", "", "", "", "abc", ""]
    assert answer.rest() == "ab"
    with pytest.raises(ValueError, match="empty stop string"):
        Answer(tokenizer, (), ("",))


def test_answers_in_batches_are_what_transformers_generates(model_folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = tiny_model("llama", seed=3, vocabulary=len(tokenizer))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    asked = [tokenizer(text)["input_ids"] for text in ("The red fox", "A", "Rain falls on the old tree.")]
    common = tokenizer.encode("e")[0]
    expected = []
    for prompt in asked:
        output = model.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=common, pad_token_id=0
        )
        written = output[0, len(prompt) :].tolist()
        expected.append(whole(tokenizer, [token for token in written if token != common]))
    for batch_size in (1, 2, 8):
        found = answers(model, tokenizer, asked, max_new_tokens=20, end_ids={common}, batch_size=batch_size)
        assert found == expected
