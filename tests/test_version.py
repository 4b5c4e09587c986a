"""The version stands once, in the package; what cannot read it there says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from llm_finetune import __version__

CHECKOUT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def test_the_project_file_reads_the_package() -> None:
    project = tomllib.loads(text("pyproject.toml"))
    assert project["project"]["dynamic"] == ["version"]
    assert (CHECKOUT / project["tool"]["hatch"]["version"]["path"]).samefile(
        CHECKOUT / "src/llm_finetune/__init__.py"
    )


def test_the_chart_is_the_packages() -> None:
    chart = yaml.safe_load(text("Chart.yaml"))
    assert chart["name"] == "llm-finetune"
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_image_is_the_packages() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in text("Dockerfile")


def test_the_citation_is_the_packages() -> None:
    assert yaml.safe_load(text("CITATION.cff"))["version"] == __version__


def test_the_image_is_built_under_the_tag_that_the_chart_asks_for() -> None:
    assert set(re.findall(r"llm-finetune:(\d[\w.]*\w)", text("README.md"))) == {__version__}
