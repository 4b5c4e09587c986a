"""Training steps side by side: python benchmarks/train_step.py [--rounds 2] [--steps 7] [--only NAME,NAME].

Each side runs in its own process and environment, the sides in turn, round after round, on an idle machine.
Peers' environments are made by `make benchmark-peers`. tcmalloc is preloaded for peers where it is found; the
project's own side starts as a user starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import inputs
import report
from sides import SIDES

from llm_finetune.distributed import allocator

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache/llm-finetune"
WARM_UP = 2
SHORT = "ours, short records and a long one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=7, help=f"of each run; the first {WARM_UP} are not counted"
    )
    parser.add_argument("--model", choices=inputs.MODELS, default="130m")
    parser.add_argument("--only", default="", help="names of sides with commas between")
    parser.add_argument("--name", default="train_step", help="of the files in benchmarks/results")
    given = parser.parse_args()
    names = [name for name in SIDES if not given.only or name in given.only.split(";")]
    folder = CACHE / "benchmark" / given.model
    facts = {name: _facts(folder, given.model, short=name == SHORT) for name in names}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(given.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            where = folder / ("short" if name == SHORT else "real")
            if seen := _run(name, where, given.steps):
                runs[name].append(_figures(seen, facts[name], full="all weights" in name))
    rows = [_summary(name, runs[name]) for name in names if runs[name]]
    report.write(given.name, rows, runs)
    print(report.table(rows))


def _facts(folder: Path, model: str, *, short: bool) -> dict[str, Any]:
    where = folder / ("short" if short else "real")
    if not (where / "facts.json").is_file():
        records = inputs.short_records_and_a_long_one(2000) if short else inputs.real_records(5942)
        inputs.make(where, model, records)
    return json.loads((where / "facts.json").read_text())


def _run(name: str, folder: Path, steps: int) -> dict[str, Any] | None:
    """One side's own words; None where it failed, which stands in its log."""
    log = folder / f"{name.replace(' ', '-').replace(',', '')}.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
    environment.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    python = sys.executable
    if name.startswith("ours"):
        environment["PYTHONPATH"] = str(HERE.parent / "scripts")
    else:
        peer = "llamafactory" if name.startswith("LLaMA") else "trl"
        python = str(CACHE / "peers" / peer / "bin/python")
        kept = sorted((CACHE / "tcmalloc").glob("libtcmalloc_minimal.so.4"))
        found = allocator.wanted("auto", environment).get("LD_PRELOAD") or next(map(str, kept), "")
        environment["LD_PRELOAD"] = "" if "as installed" in name else found
    command = [python, str(HERE / "sides.py"), name, str(folder), str(steps)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    log.write_text(result.stdout + result.stderr)
    for line in result.stdout.splitlines():
        if line.startswith("RECORDED "):
            return json.loads(line.removeprefix("RECORDED "))
    print(f"{name}: failed, see {log}", file=sys.stderr)
    return None


def _figures(seen: dict[str, Any], facts: dict[str, Any], *, full: bool) -> dict[str, Any]:
    steps = seen["steps"][WARM_UP:]
    seconds, tokens, labels = (sum(step[name] for step in steps) for name in ("seconds", "tokens", "labels"))
    operations = inputs.counted_operations(facts, tokens, labels, full)
    return {
        "tokens_per_second": tokens / seconds,
        "share_of_peak": operations / seconds / seen["gemm_peak"],
        "peak_memory": seen["peak_memory"],
        "first_step_seconds": seen["steps"][0]["since_start"],
        "losses": [step["loss"] for step in seen["steps"]],
        "gemm_peak": seen["gemm_peak"],
        "read_bandwidth": seen["read_bandwidth"],
        "machine": seen["machine"],
    }


def _summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; for tokens a second the least and the most too."""
    speeds = [run["tokens_per_second"] for run in runs]
    summary = {"name": name, "least": min(speeds), "most": max(speeds), "loss": runs[-1]["losses"][-1]}
    for figure in ("tokens_per_second", "share_of_peak", "peak_memory", "first_step_seconds", "gemm_peak"):
        summary[figure] = median(run[figure] for run in runs)
    return summary


if __name__ == "__main__":
    main()
