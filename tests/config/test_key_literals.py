"""The keys that messages name are the schema's, so that no rename leaves an old one in an error."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_finetune.config import Settings
from llm_finetune.config.fields import Key, Section

CHECKOUT = Path(__file__).parents[2]
SRC = CHECKOUT / "src" / "llm_finetune"
FILES = sorted(file for file in SRC.rglob("*.py") if SRC / "config" not in file.parents)
PATH = re.compile(r"\bdistributed(?:\.[A-Za-z]\w*)+")
CAMEL_CASE = re.compile(r"(?<![\w./])[a-z]+(?:[A-Z][a-z0-9]+)+\b")


def job_keys(section: type[Section], path: str) -> Iterator[str]:
    yield path
    for name, entry in section.entries().items():
        if isinstance(entry, Key):
            yield f"{path}.{name}"
        else:
            yield from job_keys(entry, f"{path}.{name}")


def chart_keys(schema: Any) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from chart_keys(inner)


def literals(file: Path) -> Iterator[tuple[int, str]]:
    """Its strings but for docstrings, with their lines."""
    tree = ast.parse(file.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def paths() -> set[str]:
    return set(job_keys(Settings, "distributed"))


def test_every_path_of_a_key_in_a_message_is_one_of_the_schemas(paths: set[str]) -> None:
    named = [
        (f"{file.relative_to(SRC)}:{line}", path)
        for file in FILES
        for line, text in literals(file)
        for path in PATH.findall(text)
    ]
    assert len(named) > 50, "the messages name keys"
    assert [(place, path) for place, path in named if path not in paths] == []


def test_every_word_in_the_form_of_a_key_is_one(paths: set[str]) -> None:
    schema = json.loads((CHECKOUT / "values.schema.json").read_text())
    kubernetes = {"elasticPolicy", "securityContext", "runAsUser"}
    known = {path.rpartition(".")[2] for path in paths} | set(chart_keys(schema)) | kubernetes
    unknown = [
        (f"{file.relative_to(SRC)}:{line}", word)
        for file in FILES
        for line, text in literals(file)
        for word in CAMEL_CASE.findall(text)
        if word not in known
    ]
    assert unknown == []
