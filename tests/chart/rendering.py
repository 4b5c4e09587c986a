"""The chart as real Helm renders it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]
# $HELM names another version of it.
HELM = (
    os.environ.get("HELM")
    or shutil.which("helm", path=str(Path(sys.executable).parent))
    or shutil.which("helm")
)
CHART_FILES = ("Chart.yaml", "values.yaml", "values.schema.json", "README.md", ".helmignore")

Object = dict[str, Any]


class HelmError(Exception):
    """Helm did not render; the text says why."""


def copy_chart(folder: Path) -> Path:
    """The chart alone, since Helm walks through all of a checkout first."""
    shutil.copytree(CHECKOUT / "templates", folder / "templates")
    for name in CHART_FILES:
        shutil.copy(CHECKOUT / name, folder)
    return folder


def copy_chart_with_notes(folder: Path) -> Path:
    """The chart with one more object, NOTES.txt: `helm template` leaves it out."""
    copy_chart(folder)
    (folder / ".helmignore").unlink()
    shutil.copy(folder / "templates" / "NOTES.txt", folder)
    (folder / "templates" / "notes.yaml").write_text(
        'kind: Notes\ntext: {{ tpl (.Files.Get "NOTES.txt") . | quote }}\n'
    )
    return folder


def helm(*arguments: str | Path, standard_input: str = "") -> str:
    """What Helm prints.

    Raises:
        HelmError: it failed.
    """
    command = [str(HELM), *map(str, arguments)]
    done = subprocess.run(
        command, input=standard_input, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def as_yaml(values: Any) -> str:
    """JSON that is YAML as well, which folds some characters and knows no surrogates."""
    text = json.dumps(values, ensure_ascii=False)
    return re.sub("[\u0085\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


class Chart:
    """A folder with the chart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def render(self, values: Any = None, *arguments: str, release: str = "mine") -> list[Object]:
        """The objects that an installation would make.

        Args:
            values: merged over the chart's own, or a list of such trees.

        Raises:
            HelmError: by the schema or by a rule.
        """
        text = helm(
            *("template", release, self.folder, "--namespace", "space", "-f", "-", *arguments),
            standard_input=as_yaml(values or {}),
        )
        return [found for found in yaml.safe_load_all(text) if found]

    def one(self, kind: str, values: Any = None, *arguments: str, release: str = "mine") -> Object:
        """The only object of a kind."""
        (found,) = (o for o in self.render(values, *arguments, release=release) if o["kind"] == kind)
        return found

    def notes(self, values: Any = None, *arguments: str, release: str = "mine") -> str:
        """What Helm tells after an installation, though there is no cluster to install to."""
        notes = self.one("Notes", values, *arguments, release=release)
        return str(notes["text"])

    def refusal(self, values: Any) -> str:
        """Why these values are refused; fails where they are not."""
        try:
            self.render(values)
        except HelmError as refused:
            return str(refused)
        raise AssertionError(f"rendered: {values}")


def worker(job: Object) -> Object:
    """The pod that a job's workers are made of, with its metadata."""
    pod: Object = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    return pod


def container(job: Object) -> Object:
    """The one container of a worker."""
    (only,) = worker(job)["spec"]["containers"]
    return dict(only)


def environment(job: Object) -> dict[str, str]:
    """The variables of a worker that have a plain value."""
    return {entry["name"]: entry["value"] for entry in container(job)["env"] if "value" in entry}


def settings(objects: list[Object]) -> Any:
    """The section `distributed` as the workers read it."""
    (config,) = (o for o in objects if o["kind"] == "ConfigMap")
    return json.loads(config["data"]["settings.json"])["distributed"]
