"""A benchmark's options, and its figures as a table in Markdown, as JSON and as a picture."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from html import escape
from pathlib import Path

from worker_protocol import Answer

from llm_finetune.distributed import available_cores

RESULTS = Path(__file__).parent / "results"


def machine() -> Answer:
    """What the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": model, "cores": available_cores(), "python": platform.python_version()}


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """What all benchmarks are asked.

    Args:
        about: the benchmark's docstring.
        rounds: default number of turns of each side.
    """
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"turns of each side (default: {rounds})")
    made.add_argument("--out", type=Path, default=RESULTS, help="the folder for what was measured")
    return made


def spread(row: Answer, key: str, form: str = ",.0f") -> str:
    """The least and the most of a side's figures."""
    return " - ".join(format(figure, form) for figure in row["least_and_most"][key])


def peak_memory(row: Answer) -> float:
    """The most that a side ever held, in bytes."""
    return float(row["least_and_most"]["peak_memory_bytes"][1])


def markdown(rows: Sequence[Answer], columns: dict[str, str]) -> str:
    """A table.

    Args:
        columns: header by the rows' key.
    """
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def write(folder: Path, name: str, results: Answer, table: str, picture: str) -> None:
    """NAME.json, NAME.md and NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / f"{name}.md").write_text(table + "\n")
    (folder / f"{name}.svg").write_text(picture)


def bars(title: str, values: Sequence[tuple[str, float]], unit: str) -> str:
    """A picture (SVG) with a bar for each value; what is ours in blue."""
    most, height = max(value for _, value in values), 30 * len(values) + 50
    names = 20 + 7 * max(len(name) for name, _ in values)
    box = f"0 0 {names + 450} {height}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="26" font-size="16">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values):
        y, width = 40 + 30 * number, 340 * value / most
        color = "#2f6f9f" if "ours" in name else "#a9a9a9"
        parts.append(f'<text x="{names}" y="{y + 15}" font-size="13" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{names + 10}" y="{y}" width="{width:.1f}" height="20" fill="{color}"/>')
        label = f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
        parts.append(f'<text x="{names + 15 + width:.1f}" y="{y + 15}" font-size="13">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>\n"])
