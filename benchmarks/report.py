"""A benchmark's figures as JSON, as a table in Markdown and as a picture, in benchmarks/results."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, rows: list[dict[str, Any]], runs: dict[str, Any]) -> None:
    """Writes NAME.json with every run, NAME.md and NAME.svg."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"rows": rows, "runs": runs}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table(rows) + "\n")
    _picture(rows, RESULTS / f"{name}.svg")


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| setup | useful tokens/s (spread) | share of GEMM peak | peak memory | start to first step | loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['tokens_per_second']:,.0f} ({row['least']:,.0f}-{row['most']:,.0f}) "
            f"| {row['share_of_peak']:.2f} | {row['peak_memory'] / 1e9:.1f} GB "
            f"| {row['first_step_seconds']:.1f} s | {row['loss']:.3f} |"
        )
    return "\n".join(lines)


def _picture(rows: list[dict[str, Any]], file: Path) -> None:
    """Bars of useful tokens a second, the project's own in blue."""
    ordered = sorted(rows, key=lambda row: -row["tokens_per_second"])
    most = ordered[0]["tokens_per_second"]
    bars = []
    for number, row in enumerate(ordered):
        speed, y = row["tokens_per_second"], 26 * number
        colour = "#2a6fdb" if row["name"].startswith("ours") else "#9aa0a6"
        bars.append(
            f'<text x="250" y="{y + 17}" text-anchor="end">{escape(row["name"])}</text>'
            f'<rect x="258" y="{y + 4}" width="{400 * speed / most:.0f}" height="18" fill="{colour}"/>'
            f'<text x="{264 + 400 * speed / most:.0f}" y="{y + 17}">{speed:,.0f}</text>'
        )
    size = f'width="720" height="{26 * len(ordered) + 4}"'
    style = 'font-family="sans-serif" font-size="13" fill="#777"'
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(bars)}</svg>\n')
