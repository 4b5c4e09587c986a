"""What runs on GitHub, as far as it can be read here: pinned, with few rights, and only what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[1]
FILES = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
MAY_WRITE = {
    ("docs", "publish"): {"contents"},
    ("release", "image"): {"packages"},
    ("release", "publish"): {"contents"},
}


def workflow(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_workflow_may_read_and_its_actions_cannot_change(file: Path) -> None:
    assert workflow(file)["permissions"] == {"contents": "read"}
    for name, job in workflow(file)["jobs"].items():
        rights = {right for right, access in job.get("permissions", {}).items() if access != "read"}
        assert rights == MAY_WRITE.get((file.stem, name), set())
        assert job["timeout-minutes"]
    for action in re.findall(r"uses: (.+)", file.read_text(encoding="utf-8")):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_workflow_runs_what_is_there(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    commands = [
        step["run"] for job in workflow(file)["jobs"].values() for step in job["steps"] if "run" in step
    ]
    for command in commands:
        for asked in re.findall(r"\bmake ([a-z -]+)", command):
            assert set(asked.split()) <= targets
        for path in re.findall(r"\b(tests/[\w/.]+)", command):
            assert (CHECKOUT / path).exists()
    triggers = workflow(file)[True]  # YAML 1.1 reads `on` as a truth value
    for pattern in (triggers.get("push") or {}).get("paths", []):
        assert list(CHECKOUT.glob(pattern)), pattern


def test_every_python_is_tested() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    said = [
        line.removeprefix("Programming Language :: Python :: ")
        for line in project["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    ]
    tested = workflow(CHECKOUT / ".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    first, last = said[0], int(said[-1].removeprefix("3."))
    assert tested == said
    assert project["requires-python"] == f">={first},<3.{last + 1}"


def test_both_stacks_are_built() -> None:
    stacks = {file.stem for file in (CHECKOUT / "requirements").glob("*.in")} & {"intel", "upstream"}
    built, released = (
        workflow(CHECKOUT / f".github/workflows/{name}.yml")["jobs"]["image"]["strategy"]["matrix"]
        for name in ("image", "release")
    )
    assert set(built["stack"]) == {entry["stack"] for entry in released["include"]} == stacks
