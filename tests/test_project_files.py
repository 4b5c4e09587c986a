"""What stands about the project beside its code says what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob(".github/**/*.md")])


def test_contributing_names_the_rooms_in_the_order_of_their_imports() -> None:
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    section = CONTRIBUTING.split("## Where a thing lives")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ", section, re.MULTILINE)
    named = [row.replace("`", "").replace(", ", " | ") for row in rows]
    assert named == layers


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(CHECKOUT)) for page in PAGES])
def test_links_into_the_checkout_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_a_commit_may_be_of_the_types_that_contributing_names() -> None:
    hooks = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    (allowed,) = re.findall(r"\)\(([a-z|]+)\)", hooks)
    (sentence,) = re.findall(r"The type is one of ([^!]*),\s+with", CONTRIBUTING)
    assert re.findall(r"`(\w+)`", sentence) == allowed.split("|")
