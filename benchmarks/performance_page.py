"""Writes the measured tables and charts into docs/performance.md, between its markers.

python benchmarks/performance_page.py      reads benchmarks/results
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from report import RESULTS, markdown, peak_memory

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- benchmarks/performance_page.py writes from here -->\n", "<!-- to here -->"
PARTS = {
    "train_step": ("Training", "Useful tokens a second of training, ours and others"),
    "evaluation": ("Evaluation", "Tokens a second of evaluation, ours and others"),
    "preparation": ("Preparing data", "Records a second of preparation, ours and others"),
    "decode": ("Decoding", "Tokens a second of decoding, ours and others"),
    "recovery": ("Recovery", "Seconds from a fault to the next training step, ours and others"),
}


# What is compared beside the headlines: how it is called, its unit in the table, and whether more is better.
MEASURES = {
    "tokens_per_second": ("tokens a second", 1.0, True),
    "first_step_seconds": ("seconds to the end of the first step", 1.0, False),
    "first_token_seconds": ("seconds to read the prompt", 1.0, False),
    "load_seconds": ("seconds to load", 1.0, False),
    "seconds": ("seconds", 1.0, False),
    "peak_memory_bytes": ("GB of memory", 1e9, False),
}


def main() -> None:
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in PARTS}
    lines = [
        _measured_on(results),
        "",
        markdown(list(_headlines(results)), {"what": "", "figure": "measured"}),
    ]
    for name, (title, alternative) in PARTS.items():
        table = (RESULTS / f"{name}.md").read_text().rstrip()
        shutil.copy(RESULTS / f"{name}.svg", ROOT / f"docs/benchmark-{name.replace('_', '-')}.svg")
        picture = f"![{alternative}](benchmark-{name.replace('_', '-')}.svg)"
        lines += ["", f"### {title}", "", picture, "", table.replace("#### ", "")]
    lines += ["", "### Where other tools are better", "", *_lost(results)]
    lines += [
        "",
        "### Training losses",
        "",
        "Step by step. The tools pack differently, so they see other records in a step.",
        "",
        *_losses(results["train_step"]),
    ]
    page = ROOT / "docs" / "performance.md"
    text = page.read_text()
    if not re.search(f"{BEGIN}.*?{END}", text, re.S):
        raise SystemExit(f"{page}: no {BEGIN.strip()} … {END}")
    written = BEGIN + "\n".join(lines) + "\n" + END
    page.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: written, text, flags=re.S))


def _measured_on(results: dict[str, Any]) -> str:
    machine, sides = results["train_step"]["machine"], _sides(results["train_step"])
    peak = sides["ours"]["gemm_peak"] / 1e9
    decoding = results["decode"]["models"]["0.7b"][0]
    bandwidth = decoding["bandwidth"] / 1e9
    versions = {name: version for side in sides.values() for name, version in side["versions"].items()}
    turns = {name: len(row["turns"]) for name, row in (("training", sides["ours"]), ("decoding", decoding))}
    return (
        f"{machine['cores']} cores of {machine['processor']}, {sides['ours']['threads']} threads, "
        f"{peak:,.0f} GFLOP/s in a bf16 matrix product, {bandwidth:.0f} GB/s of memory bandwidth; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; "
        f"Python {machine['python']}. "
        f"Medians of {turns['training']} turns (decoding: {turns['decoding']})."
    )


def _headlines(results: dict[str, Any]) -> Iterator[dict[str, str]]:
    train, sides = results["train_step"], _sides(results["train_step"])

    def faster(side: str, group: str = "old recipe", ours: str = "ours") -> float:
        rates = {row["name"]: row["tokens_per_second"] for row in train["groups"][group]}
        return float(rates[ours] / rates[side])

    packed = train["groups"]["packed"][1:]
    best = max(packed, key=lambda row: float(row["tokens_per_second"]))
    rows = [row for group in train["groups"].values() for row in group if row["name"] == "ours"]
    first = median(row["first_step_seconds"] for row in rows) / min(
        row["first_step_seconds"] for row in packed
    )
    memory = peak_memory(train["groups"]["packed"][0]) / peak_memory(best)
    full = max(
        (row for row in train["groups"]["all weights"][1:]), key=lambda row: float(row["tokens_per_second"])
    )
    yield _line(
        "LoRA step, packed 4 x 512, records apart: share of the GEMM peak", sides["ours"]["share_of_peak"]
    )
    yield _line(
        f"useful tokens a second against the best peer ({best['name']})", faster(best["name"], "packed"), "x"
    )
    yield _line("against the old recipe, fp32 + autocast, in blocks", faster("old recipe, blocks"), "x")
    yield _line("the same, padded", faster("old recipe, padded"), "x")
    yield _line("against TRL as installed", faster("TRL as installed", "as installed"), "x")
    yield _line("peak memory, of that of the best peer", memory)
    short = sides["ours, short records and a long one"]
    yield _line("many short records and one of 4096 tokens: share of the GEMM peak", short["share_of_peak"])
    yield _line(
        f"full fine-tuning against the best peer ({full['name']})",
        faster(full["name"], "all weights", "ours, all weights"),
        "x",
    )
    evaluated, *others = results["evaluation"]["sides"]
    for other in others:
        ratio = evaluated["tokens_per_second"] / other["tokens_per_second"]
        yield _line(f"evaluation against {other['name']}", ratio, "x")
    for times, found in results["preparation"]["times"].items():
        seconds = [row["seconds"] for row in found]
        yield _line(
            f"preparing {5942 * int(times):,} records against TRL", min(seconds[1:]) / seconds[0], "x"
        )
    yield _line("start to the end of the first step, of the best peer's", first)
    decoded = {row["name"]: row for row in results["decode"]["models"]["0.7b"]}
    ours = decoded["ours, 4 bit"]
    rate = ours["tokens_per_second"]
    yield _line(
        "decoding, 4 bit, batch 1, 0.7 billion: share of the memory bandwidth",
        ours["weight_bytes_per_token"] * rate / ours["bandwidth"],
    )
    for peer in ("transformers, bf16", "llama.cpp, Q4_0", "neural-compressor's module, 4 bit, fp32"):
        yield _line(f"the same against {peer}", rate / decoded[peer]["tokens_per_second"], "x")
    recovered = results["recovery"]["rows"]
    for row, other in zip(recovered[::2], recovered[1::2], strict=True):
        ratio = row["seconds"] / other["seconds"]
        yield _line(f"{row['fault']}: seconds to the next step, of those of {other['name']}", ratio)


def _lost(results: dict[str, Any]) -> Iterator[str]:
    rows: list[dict[str, str]] = []
    for group, (first, *others) in results["train_step"]["groups"].items():
        rows += [row for other in others for row in _better(f"training, {group}", other, first)]
    first, *others = results["evaluation"]["sides"]
    rows += [row for other in others for row in _better("evaluation", other, first)]
    for times, (first, *others) in results["preparation"]["times"].items():
        rows += [row for other in others for row in _better(f"preparation, {times}x", other, first)]
    for model, found in results["decode"]["models"].items():
        sides = {row["name"]: row for row in found}
        for ours, other in (("ours, 4 bit", "llama.cpp, Q4_0"), ("ours, bf16", "llama.cpp, bf16")):
            if ours in sides:
                rows += _better(f"decoding, {model}", sides[other], sides[ours])
    yield markdown(rows, {"where": "", "who": "", "what": "", "theirs": "theirs", "ours": "ours"})


def _better(where: str, other: dict[str, Any], ours: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What another side did better than ours."""
    for key, (what, unit, more_is_better) in MEASURES.items():
        if key in other and key in ours and not other["name"].startswith("ours"):
            theirs, own = (float(row[key]) / unit for row in (other, ours))
            if theirs > own if more_is_better else theirs < own:
                figures = {"theirs": f"{theirs:.2f}", "ours": f"{own:.2f}"}
                yield {"where": where, "who": other["name"], "what": what, **figures}


def _losses(train: dict[str, Any]) -> Iterator[str]:
    sides = _sides(train).values()
    steps = max(len(row["turns"]) for row in sides)
    columns = {"name": "", **{str(step): str(step + 1) for step in range(steps + 1)}}
    rows = []
    for row in sides:
        losses = [row["first_loss"], *(turn["loss"] for turn in row["turns"])]
        rows.append({"name": row["name"], **{str(n): f"{loss:.3f}" for n, loss in enumerate(losses)}})
    yield markdown(rows, columns)


def _sides(train: dict[str, Any]) -> dict[str, Any]:
    """Each side once, as its first group has it."""
    found: dict[str, Any] = {}
    for group in train["groups"].values():
        for row in group:
            found.setdefault(row["name"], row)
    return found


def _line(what: str, figure: float, unit: str = "") -> dict[str, str]:
    return {"what": what, "figure": f"{figure:.2f}{unit}"}


if __name__ == "__main__":
    main()
