"""Records that are longer than a row."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from llm_finetune.data.tokenization import TokenSequence

TooLong = Literal["auto", "truncate", "split", "error"]


class Truncated(NamedTuple):
    """What became of one record.

    Attributes:
        sequences: each within the length; several where the record was split.
        prompt_cut: tokens are missing at the prompt's left.
        answer_cut: tokens are missing at the end, the end-of-sequence token among them.
    """

    sequences: list[TokenSequence]
    prompt_cut: bool = False
    answer_cut: bool = False


def truncate(sequence: TokenSequence, max_length: int, kept_in_front: int) -> Truncated:
    """Cut the prompt's left, down to a quarter of the row; what is then still too long is cut at its end.

    Args:
        sequence: one record.
        max_length: tokens that fit.
        kept_in_front: tokens at the very beginning that stay (BOS).
    """
    ids, trained = sequence
    excess = len(ids) - max_length
    prompt = int(np.argmax(trained))
    kept_prompt = max(prompt - excess, min(prompt, max_length // 4), kept_in_front)
    cut = prompt - kept_prompt
    keep = np.r_[0:kept_in_front, kept_in_front + cut : len(ids)][:max_length]
    return Truncated([TokenSequence(ids[keep], trained[keep])], prompt_cut=cut > 0, answer_cut=excess > cut)


def split(sequence: TokenSequence, max_length: int) -> Truncated:
    """Cut into consecutive pieces. Each begins with the last token of the one before.

    Nothing predicts the first token of a piece; so every token but the record's first is still predicted,
    and once only.
    """
    ids, trained = sequence
    starts = range(0, len(ids) - 1, max_length - 1)
    ends = [min(start + max_length, len(ids)) for start in starts]
    return Truncated([TokenSequence(ids[a:b], trained[a:b]) for a, b in zip(starts, ends, strict=True)])
