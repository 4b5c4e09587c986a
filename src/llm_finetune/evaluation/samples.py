"""Evaluation samples: what the model answers to validation prompts, held against what it should have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_finetune.data import Sample, Split
from llm_finetune.evaluation.result import Answer
from llm_finetune.generation.detokenization import answers
from llm_finetune.generation.load import end_ids
from llm_finetune.kernels.precision import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sample_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    *,
    count: int,
    max_new_tokens: int,
    batch_size: int,
    precision: Precision,
) -> list[Answer]:
    """The greedy answers to the first prompts of the split, in the order of its files.

    Args:
        split: records with a prompt before their answer, of which the answer alone is trained on; others
            (plain text, or with trainOnPrompt) do not say where an answer begins and are passed over.
        count: records to look at.
        max_new_tokens: tokens of an answer at most.
        batch_size: prompts that are answered at once.
    """
    asked = [parts for segment in split.first_records(count) if (parts := _parted(segment))]
    was_training = model.training
    model.eval()
    with precision.context():
        given = answers(
            model,
            tokenizer,
            [prompt for prompt, _ in asked],
            max_new_tokens=max_new_tokens,
            end_ids=end_ids(model, tokenizer),
            batch_size=batch_size,
        )
    model.train(was_training)

    return [
        Answer(prompt=_text(prompt, tokenizer), expected=_text(expected, tokenizer), answer=answer)
        for (prompt, expected), answer in zip(asked, given, strict=True)
    ]


def _parted(segment: Sample) -> tuple[list[int], list[int]] | None:
    """The tokens before the first answer, and that answer's; None where the record does not tell."""
    trained = segment.labels >= 0
    start = int(trained.argmax())
    if start < 2:
        # Nothing predicts the first token: with a label at the second, all is trained on.
        return None
    length = int((~trained[start:]).argmax()) or len(trained) - start
    ids = segment.input_ids.tolist()
    return ids[:start], ids[start : start + length]


def _text(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    if ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
