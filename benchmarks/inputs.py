"""What all sides train: a model by its config with random weights, and the same records for each."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WIKIDOC = Path(__file__).parents[2] / "shared/data/medical_meadow_wikidoc_patient_information.json"
VOCABULARY = 32_000
LENGTH = 512


def layers(count: int, heads: int, key_heads: int) -> dict[str, int]:
    return {"num_hidden_layers": count, "num_attention_heads": heads, "num_key_value_heads": key_heads}


MODELS: dict[str, dict[str, int]] = {
    "130m": {"hidden_size": 768, "intermediate_size": 2048, **layers(12, 12, 12)},
    "120m-gqa": {"hidden_size": 768, "intermediate_size": 2048, **layers(12, 12, 4)},
    "0.7b": {"hidden_size": 1536, "intermediate_size": 4096, **layers(22, 24, 24)},
    "0.7b-gqa": {"hidden_size": 1536, "intermediate_size": 4608, **layers(22, 24, 8)},
}


@dataclass(frozen=True)
class Facts:
    """What a step's operations are counted with.

    Attributes:
        products: parameters of the matrix products, without the head.
        head: parameters of the head.
        mean_seen: mean over tokens of their record's length.
    """

    products: int
    head: int
    layers: int
    width: int
    mean_seen: float

    def operations(self, tokens: float, labels: float, seen: float | None, *, full: bool) -> float:
        """Operations of a step that the result needs.

        Args:
            seen: sum over its records of their length's square; None: as in the mean of all records.

        Forward 2 a weight of the matrix products and token, backward the same for activations, and once more
        for trained weights; the head on labels alone; causal attention a record at half its square, forward
        once and backward twice; nothing that is computed again.
        """
        passes = 6 if full else 4
        attention = 6 * self.layers * self.width * (self.mean_seen * tokens if seen is None else seen)
        return passes * (self.products * tokens + self.head * labels) + attention


def made(folder: Path, model: str, records: list[dict[str, str]], length: int = LENGTH) -> Facts:
    """Writes model, records, their texts and their tokens into a folder, unless they are there."""
    if not (folder / "facts.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        facts = _make(folder, model, records, length)
        (folder / "facts.json").write_text(json.dumps(asdict(facts)))
    return Facts(**json.loads((folder / "facts.json").read_text()))


def _make(folder: Path, model: str, records: list[dict[str, str]], length: int) -> Facts:
    import torch
    import transformers

    (folder / "records.json").write_text(json.dumps(records))
    tokenizer = _tokenizer(records)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        **MODELS[model],
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(config)
    network.bfloat16().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    texts = [_text(record) for record in records]
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    lengths = []
    with (folder / "tokens.jsonl").open("w") as file:
        for text in texts:
            both = [text["prompt"], text["completion"]]
            prompt, answer = tokenizer(both, add_special_tokens=False)["input_ids"]
            ids = [*prompt, *answer, 2][:length]
            labels = [*[-100] * len(prompt), *answer, 2][:length]
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
            lengths.append(len(ids))
    return Facts(
        products=sum(p.numel() for name, p in network.named_parameters() if "proj" in name),
        head=VOCABULARY * config.hidden_size,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        mean_seen=sum(length**2 for length in lengths) / sum(lengths),
    )


def real_records(count: int) -> list[dict[str, str]]:
    """Questions and answers of WikiDoc; where they are absent, made ones of the same lengths."""
    if WIKIDOC.is_file():
        return json.loads(WIKIDOC.read_text())[:count]
    chance = random.Random(0)
    return [
        {"instruction": "Answer this question truthfully", "input": _words(chance, 9),
         "output": _words(chance, int(chance.lognormvariate(3.9, 0.8)) + 1)}
        for _ in range(count)
    ]  # fmt: skip


def short_records_and_a_long_one(count: int) -> list[dict[str, str]]:
    """Records of about 60 tokens, the prompt's opening among them, and in every hundred one of 4096."""
    chance = random.Random(0)
    return [
        {"instruction": _words(chance, 3), "input": "",
         "output": _words(chance, 4600 if number % 100 == 0 else chance.randint(5, 25))}
        for number in range(count)
    ]  # fmt: skip


def _tokenizer(records: list[dict[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((_text(r)["prompt"] + r["output"] for r in records), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _text(record: dict[str, str]) -> dict[str, str]:
    given = f"\n\n### Input:\n{record['input']}" if record["input"] else ""
    opening = "Below is an instruction that describes a task. Write a response that completes the request."
    prompt = f"{opening}\n\n### Instruction:\n{record['instruction']}{given}\n\n### Response:\n"
    return {"prompt": prompt, "completion": record["output"]}


def _words(chance: random.Random, count: int) -> str:
    return " ".join(
        "".join(chance.choices("abcdefghijklmnoprstu", k=chance.randint(2, 8))) for _ in range(count)
    )
