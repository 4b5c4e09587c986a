"""What the command says before it does anything heavy."""

from __future__ import annotations

import subprocess
import sys

from cli_runner import SRC
from llm_finetune import __version__
from llm_finetune.config import Settings


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SRC)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
    )


HEAVY = "{'torch', 'transformers', 'datasets', 'pyarrow', 'peft', 'numpy'}"


def test_help_names_every_key_and_loads_nothing_heavy() -> None:
    done = python(
        "sys.argv = ['llm-finetune', 'run', '--help']\n"
        "from llm_finetune.cli import main\n"
        "try: main.main()\n"
        f"finally: print('loaded', {HEAVY} & set(sys.modules))"
    )
    assert done.stdout.strip().endswith("loaded set()"), done.stdout + done.stderr
    for name in Settings.entries():
        assert name in done.stdout


def test_the_version_is_the_packages_and_loads_nothing_heavy() -> None:
    done = python(
        "sys.argv = ['llm-finetune', '--version']\n"
        "from llm_finetune.cli import main\n"
        "try: main.main()\n"
        f"finally: print('loaded', {HEAVY} & set(sys.modules))"
    )
    assert done.stdout.splitlines() == [f"llm-finetune {__version__}", "loaded set()"], done.stderr
    assert done.returncode == 0


def test_broken_settings_are_refused_before_anything_heavy_loads() -> None:
    done = python(
        "sys.argv = ['llm-finetune', 'run', '--set', 'distributed.train.epoch=3']\n"
        "from llm_finetune.cli import main\n"
        "try: main.main()\n"
        f"finally: print('loaded', {HEAVY} & set(sys.modules))"
    )
    assert done.returncode == 2
    assert done.stdout.strip() == "loaded set()"
    assert "distributed.train.epoch" in done.stderr
    assert "did you mean epochs?" in done.stderr
    assert "Traceback" not in done.stderr
