"""What stands about the project beside its code says what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def layers() -> list[str]:
    """import-linter's layers, the highest first; rooms of one layer with bars between."""
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return list(found)


def test_contributing_names_the_rooms_in_the_order_of_their_imports() -> None:
    section = CONTRIBUTING.split("## Where a thing lives")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ", section, re.MULTILINE)
    named = [row.replace("`", "").replace(", ", " | ") for row in rows]
    assert named == layers()


def test_the_drawing_of_the_architecture_has_every_room_in_the_order_of_its_imports() -> None:
    drawing = (CHECKOUT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    drawn = re.findall(r'text-anchor="middle">(\w+)<', drawing)
    assert drawn == [room for layer in layers() for room in layer.split(" | ")]


def test_the_readme_is_short() -> None:
    assert (CHECKOUT / "README.md").stat().st_size <= 10_240


def test_a_commit_may_be_of_the_types_that_contributing_names() -> None:
    hooks = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    (allowed,) = re.findall(r"\)\(([a-z|]+)\)", hooks)
    (sentence,) = re.findall(r"The type is one of ([^!]*),\s+with", CONTRIBUTING)
    assert re.findall(r"`(\w+)`", sentence) == allowed.split("|")
