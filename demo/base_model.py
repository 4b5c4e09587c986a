"""A small Llama that knows nothing yet, and a tokenizer made for the demo's texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grammar import BRIGHT, CONSONANTS, DARK

BOS, EOS = "<s>", "</s>"
VOCABULARY = 448
WIDTH = 128
SYLLABLE = f"[{CONSONANTS}][{DARK}{BRIGHT}]"
# Only syllables follow up to the end of the word, and no other letter than a vowel comes before.
SYLLABLE_OF_SELEKI = rf"(?<![^\W{DARK}{BRIGHT}]){SYLLABLE}(?=({SYLLABLE})*\b)"


def save_untrained(folder: Path, texts: Iterable[str], seed: int) -> None:
    """Write model and tokenizer into `folder`, as transformers' `save_pretrained` does."""
    tokenizer = _tokenizer(texts)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    _model(tokenizer).save_pretrained(folder)


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that tells Seleki syllable by syllable.

    A syllable is the same token wherever it stands (a space is a token of its own): to see that a word occurs
    again, in whatever form, is then to see that tokens occur again.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.Split(Regex(SYLLABLE_OF_SELEKI), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=EOS)


def _model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """0.9 million weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
