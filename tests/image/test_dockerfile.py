"""The Dockerfile, as far as it can be judged without building it; tests/cluster runs what it builds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).parents[2]
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def test_only_what_is_copied_goes_into_the_build() -> None:
    copied = {
        source
        for sources in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }
    ignore = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied


def test_the_image_the_chart_and_the_package_bear_one_license() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHECKOUT / "Chart.yaml").read_text())
    assert project["license-files"] == ["LICENSE"]
    assert (CHECKOUT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]
    assert project["license"] == chart["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    assert f'org.opencontainers.image.licenses="{project["license"]}"' in DOCKERFILE


def test_the_preloaded_libraries_are_where_the_chart_looks_for_them() -> None:
    preload = re.search(r"^  ldPreload: (\S+)$", (CHECKOUT / "values.yaml").read_text(), re.MULTILINE)
    assert preload
    for library in preload[1].split(":"):
        assert Path(library).name in DOCKERFILE
