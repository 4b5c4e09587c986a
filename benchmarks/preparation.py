"""How fast records become packed rows on disk, against TRL.

python benchmarks/preparation.py [--times 1 --times 100] [--rounds 3]

Of many records each side prepares once, whatever the rounds are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import inputs
from alternating_runner import HERE, Program, in_turns
from peer_environments import CACHE, peer, tcmalloc
from worker_protocol import Answer

from llm_finetune.distributed import available_cores
from report import bars, machine, markdown, parser, peak_memory, spread, write

RECORDS = 5942
COLUMNS = {
    "name": "",
    "records": "records",
    "seconds": "seconds",
    "range": "least - most",
    "ratio": "ours is faster by",
    "memory": "peak memory (GB)",
    "rows": "rows",
    "empty": "positions empty",
    "opening": "opening (ms)",
    "unverified": "without checksums (ms)",
    "speed": "checksums (MB/s)",
}


def main() -> None:
    options = _options()
    results: Answer = {"machine": machine(), "times": {}}
    rows, pictured = [], []
    for times in options.times or (1, 100):
        found = in_turns(_programs(_made(times), alone=times == 1), options.rounds if times == 1 else 1)
        results["times"][times] = found
        rows += _rows(found, RECORDS * times)
        pictured += [
            (f"{RECORDS * times:,} records: {row['name']}", RECORDS * times / row["seconds"]) for row in found
        ]
    table = markdown(rows, COLUMNS)
    print(table)
    title = f"Preparing, on {results['machine']['cores']} cores (records a second)"
    write(options.out, "preparation", results, table, bars(title, pictured, ""))


def _programs(folder: Path, *, alone: bool) -> list[Program]:
    """This project, and TRL with its number of processes set; `alone`: also TRL with default settings."""
    ours = [sys.executable, str(HERE / "preparers/ours.py"), str(folder)]
    trl = [peer("trl"), str(HERE / "preparers/trl_trainer.py"), str(folder)]
    cores = available_cores()
    programs = [
        Program("ours", ours, environment={"TOKENIZERS_PARALLELISM": "true"}),
        Program(f"TRL, {cores} processes", [*trl, str(cores)], environment=tcmalloc()),
    ]
    if alone:
        programs.append(Program("TRL as it comes", trl, environment=tcmalloc()))
    return programs


def _made(times: int) -> Path:
    """The folder with the records, line by line, so often."""
    real = CACHE / "benchmark/130m/real"
    records = inputs.real_records(RECORDS)
    inputs.made(real, "130m", records)
    folder = CACHE / f"benchmark/records-{times}"
    if not (folder / "model").is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        for name, once in (("records.jsonl", lines), ("texts.jsonl", (real / "texts.jsonl").read_text())):
            with (folder / name).open("w") as file:
                file.writelines(once for _ in range(times))
        (folder / "model").symlink_to(real / "model")
    return folder


def _rows(found: list[Answer], records: int) -> list[Answer]:
    return [
        {
            "name": row["name"],
            "records": f"{records:,}",
            "seconds": f"{row['seconds']:.2f}",
            "range": spread(row, "seconds", ".2f"),
            "ratio": f"{row['seconds'] / found[0]['seconds']:.2f}",
            "memory": f"{peak_memory(row) / 1e9:.2f}",
            "rows": f"{row['rows']:,.0f}",
            "empty": f"{row['empty_share']:.1%}",
            **(_opening(row) if "opening" in row else {}),
        }
        for row in found
    ]


def _opening(row: Answer) -> Answer:
    """What it costs to hold what was prepared against its checksums, each time that it is opened."""
    verified, plain = row["opening"], row["opening_unverified"]
    return {
        "opening": f"{verified * 1e3:.1f}",
        "unverified": f"{plain * 1e3:.1f}",
        "speed": f"{row['bytes'] / 1e6 / (verified - plain):,.0f}",
    }


def _options() -> Any:
    asked = parser(__doc__, rounds=3)
    asked.add_argument(
        "--times", type=int, action="append", help="repeat the records this many times (default: 1 and 100)"
    )
    return asked.parse_args()


if __name__ == "__main__":
    main()
