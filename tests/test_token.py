"""The Hugging Face token is used, and nowhere to be found: not in logs, reports, results or process lists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli_runner import SCRIPTS, assignments
from minimal_settings import PLAIN
from stand_in_hub import MARK, SECRET, TOKEN, found_in, stand_in_hub


@pytest.mark.parametrize(
    ("mode", "damage"),
    [("refuses", ""), ("answers nonsense", ""), ("breaks off", "\x01"), ("fails", "\N{EURO SIGN}")],
    ids=["refused", "nonsense", "broken off", "no token at all"],
)
def test_a_download_that_fails_with_the_token_in_use_does_not_show_it(
    mode: str, damage: str, data_file: Path, tmp_path: Path
) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(TOKEN + damage + TOKEN if damage else TOKEN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    values = {
        **PLAIN,
        "modelNameOrPath": "somebody/gated",
        "train__dataFile": str(data_file),
        "train__outputDir": str(out),
        "logLevel": "debug",
    }
    with stand_in_hub(mode) as hub:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "finetune.py"), "run", *assignments(**values)],
            capture_output=True,
            text=True,
            env={**environment, MARK: "1", "HF_HOME": str(home), "HF_ENDPOINT": hub.address},
            timeout=120,
            check=False,
        )
    if not damage:
        assert f"Bearer {TOKEN}" in hub.given
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not hub.in_processes
    assert not found_in(tmp_path, but=home / "token")
