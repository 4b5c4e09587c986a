"""How fast a training step is, against what else fine-tunes on a CPU.

python benchmarks/train_step.py [--rounds 6] [--model 130m] [--group NAME]

Each side is a process that trains the same model on the same records; they step in turns. Peers live in the
environments that `make benchmark-peers` makes, with tcmalloc preloaded; ours starts as a user starts it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import inputs
from alternating_runner import HERE, Program, in_turns
from peer_environments import CACHE, peer, tcmalloc
from worker_protocol import Answer

from report import bars, machine, markdown, parser, peak_memory, spread, write

OFF = dict.fromkeys(("packedAttention", "fusedCrossEntropy", "fusedLayers", "fusedLora"), "off")
COLUMNS = {
    "name": "",
    "rate": "useful tokens/s",
    "range": "least - most",
    "ratio": "ours is faster by",
    "share": "useful work, of the GEMM peak",
    "memory": "peak memory (GB)",
    "first": "start to the end of the first step (s)",
}


@dataclass(frozen=True)
class Side:
    """Who trains, and how.

    Attributes:
        program: a file of trainers/.
        environment: where its packages are; ours where it is empty.
        changed: what it sets beside the recipe.
        by_hand: tcmalloc is preloaded for it.
    """

    name: str
    program: str
    environment: str = ""
    changed: dict[str, Any] = field(default_factory=dict)
    by_hand: bool = True


def trainer(name: str, **changed: Any) -> Side:
    return Side(name, "plain_trainer.py", "trl", changed)


OURS = Side("ours", "ours.py")
# Sides of one group are in memory together; its first one is what the others are compared with.
GROUPS: dict[str, list[Side]] = {
    "packed": [
        OURS,
        Side("LLaMA-Factory, neat packing, by hand", "llama_factory.py", "llamafactory",
             {"neat_packing": True, "bf16": True, "disable_gradient_checkpointing": True,
              "lora_dropout": 0.0}),
        trainer("Trainer, bf16, grouped by length, by hand", old=False, data="grouped", rows=8),
        Side("TRL, packing, by hand", "trl_trainer.py", "trl",
             {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4,
              "gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16"}}),
    ],
    "old recipe": [
        OURS,
        Side("ours, speed off", "ours.py", changed={"optimizations": OFF}),
        trainer("old recipe, blocks", old=True, data="blocks"),
        trainer("old recipe, padded", old=True, data="padded", rows=8),
    ],
    "as installed": [
        OURS,
        Side("TRL as installed", "trl_trainer.py", "trl", by_hand=False),
    ],
    "all weights": [
        Side("ours, all weights", "ours.py", changed={"useLora": False}),
        trainer("Trainer, bf16, blocks, all weights", old=False, data="blocks", full=True),
        trainer("Trainer, fp32 + autocast, blocks, all weights", old=True, data="blocks", full=True),
    ],
    "short and long": [
        Side("ours, short records and a long one", "ours.py",
             changed={"perDeviceBatchSize": 1, "gradientAccumulationSteps": 4, "maxSeqLength": 4096}),
    ],
}  # fmt: skip


def main() -> None:
    options = _options()
    results: Answer = {"machine": machine(), "model": options.model, "groups": {}}
    tables: list[str] = []
    pictured: dict[str, float] = {}
    for name in options.group or GROUPS:
        short = name == "short and long"
        folder = CACHE / "benchmark" / options.model / ("short" if short else "real")
        records = inputs.short_records_and_a_long_one(2000) if short else inputs.real_records(5942)
        facts = inputs.made(folder, options.model, records, 4096 if short else inputs.LENGTH)
        found = measured(GROUPS[name], folder, facts, options.rounds)
        results["groups"][name] = found
        tables.append(f"#### {name}\n\n{markdown(_rows(found), COLUMNS)}\n")
        print(tables[-1], flush=True)
        for row in found:
            pictured.setdefault(row["name"], row["tokens_per_second"])
    title = f"Training, {options.model}, on {results['machine']['cores']} cores (useful tokens a second)"
    write(options.out, options.name, results, "\n".join(tables), bars(title, list(pictured.items()), ""))


def measured(sides: list[Side], folder: Path, facts: inputs.Facts, rounds: int) -> list[Answer]:
    """The measurements of all sides, with the rates that follow from them."""
    data = tempfile.mkdtemp()  # each side prepares its own data
    found = in_turns([_program(side, folder, Path(data) / str(n)) for n, side in enumerate(sides)], rounds)
    shutil.rmtree(data)
    for side, row in zip(sides, found, strict=True):
        full = "all weights" in side.name
        seconds = sum(turn["seconds"] for turn in row["turns"])
        rates = [turn["tokens"] / turn["seconds"] for turn in row["turns"]]
        shares = [
            facts.operations(turn["tokens"], turn["labels"], turn["seen"] or None, full=full)
            / turn["seconds"]
            / turn["gemm_peak"]
            for turn in row["turns"]
        ]
        row["tokens_per_second"] = sum(turn["tokens"] for turn in row["turns"]) / seconds
        row["least_and_most"]["tokens_per_second"] = (min(rates), max(rates))
        row["share_of_peak"] = median(shares)
    return found


def _program(side: Side, folder: Path, data: Path) -> Program:
    command = [
        peer(side.environment) if side.environment else sys.executable,
        str(HERE / "trainers" / side.program),
        str(folder),
        json.dumps(side.changed),
    ]
    preloaded = tcmalloc() if side.environment and side.by_hand else {}
    return Program(side.name, command, environment={"HF_DATASETS_CACHE": str(data), **preloaded})


def _rows(found: list[Answer]) -> list[Answer]:
    ours = found[0]["tokens_per_second"]
    rows = []
    for row in found:
        rows.append(
            {
                "name": row["name"],
                "rate": f"{row['tokens_per_second']:,.0f}",
                "range": spread(row, "tokens_per_second"),
                "ratio": f"{ours / row['tokens_per_second']:.2f}",
                "share": f"{row['share_of_peak']:.2f}",
                "memory": f"{peak_memory(row) / 1e9:.2f}",
                "first": f"{row['first_step_seconds']:.1f}",
            }
        )
    return rows


def _options() -> Any:
    asked = parser(__doc__, rounds=6)
    asked.add_argument("--model", choices=inputs.MODELS, default="130m")
    asked.add_argument("--group", action="append", choices=GROUPS)
    asked.add_argument("--name", default="train_step", help="of the files in --out")
    return asked.parse_args()


if __name__ == "__main__":
    main()
