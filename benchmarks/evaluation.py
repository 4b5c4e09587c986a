"""How fast records are evaluated, against transformers' Trainer.

python benchmarks/evaluation.py [--rounds 4] [--model 130m]
"""

from __future__ import annotations

import sys
from typing import Any

import inputs
from alternating_runner import HERE, Program, in_turns
from peer_environments import CACHE, peer, tcmalloc
from worker_protocol import Answer

from report import bars, machine, markdown, parser, peak_memory, spread, write

RECORDS = 160
COLUMNS = {
    "name": "",
    "rate": "useful tokens/s",
    "range": "least - most",
    "ratio": "ours is faster by",
    "memory": "peak memory (GB)",
    "loss": "loss",
}


def main() -> None:
    options = _options()
    folder = CACHE / "benchmark" / options.model / "real"
    inputs.made(folder, options.model, inputs.real_records(5942))
    given = [str(folder), str(RECORDS)]
    plain = [peer("trl"), str(HERE / "evaluators/plain_trainer.py"), *given]
    found = in_turns(
        [
            Program("ours", [sys.executable, str(HERE / "evaluators/ours.py"), *given]),
            Program("Trainer, bf16", [*plain, "random"], environment=tcmalloc()),
            Program("Trainer, bf16, grouped by length", [*plain, "group_by_length"], environment=tcmalloc()),
        ],
        options.rounds,
    )
    table = markdown(_rows(found), COLUMNS)
    print(table)
    results = {"machine": machine(), "model": options.model, "records": RECORDS, "sides": found}
    title = f"Evaluation, {options.model}, on {results['machine']['cores']} cores (useful tokens a second)"
    rates = [(row["name"], row["tokens_per_second"]) for row in found]
    write(options.out, "evaluation", results, table, bars(title, rates, ""))


def _rows(found: list[Answer]) -> list[Answer]:
    return [
        {
            "name": row["name"],
            "rate": f"{row['tokens_per_second']:,.0f}",
            "range": spread(row, "tokens_per_second"),
            "ratio": f"{found[0]['tokens_per_second'] / row['tokens_per_second']:.2f}",
            "memory": f"{peak_memory(row) / 1e9:.2f}",
            "loss": f"{row['loss']:.3f}",
        }
        for row in found
    ]


def _options() -> Any:
    asked = parser(__doc__, rounds=4)
    asked.add_argument("--model", choices=inputs.MODELS, default="130m")
    return asked.parse_args()


if __name__ == "__main__":
    main()
