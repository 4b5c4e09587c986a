"""The command as tests call it: in this process, since imports cost seconds, or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SRC = SCRIPTS.with_name("src")


@dataclass(frozen=True)
class Outcome:
    """What the command left: its exit code and all that it printed."""

    code: int
    text: str


def run_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Outcome:
    """Runs `llm-finetune run …` in this process."""
    return command_here(capfd, monkeypatch, "run", *arguments)


def command_here(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> Outcome:
    """Runs `llm-finetune …` in this process."""
    from llm_finetune.cli import main

    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["llm-finetune", *arguments])
    with pytest.raises(SystemExit) as exited:
        main.main()
    printed = capfd.readouterr()
    return Outcome(int(exited.value.code or 0), printed.out + printed.err)


def run_apart(*arguments: str, stdin: str = "", **environment: str) -> Outcome:
    """Runs `python scripts/finetune.py run …` as a process of its own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "finetune.py"), "run", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
        check=False,
    )
    return Outcome(done.returncode, done.stdout + done.stderr)


def values_file(**values: Any) -> str:
    """The text of a values file that says the same as `assignments`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split("__")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return json.dumps({"distributed": tree})


def plant(folder: Path) -> Path:
    """A folder whose Python files, run in the place of libraries, leave a file `ran` there."""
    folder.mkdir()
    for name in ("yaml", "psutil", "numpy", "torch"):
        code = f"open({str(folder / 'ran')!r}, 'w').close()\nraise ImportError('planted')\n"
        (folder / f"{name}.py").write_text(code)
    return folder


def assignments(**values: Any) -> list[str]:
    """--set-json options below `distributed`; two underscores stand for a dot."""
    return [
        part
        for key, value in values.items()
        for part in ("--set-json", f"distributed.{key.replace('__', '.')}={json.dumps(value)}")
    ]
