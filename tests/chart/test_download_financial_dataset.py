"""scripts/download_financial_dataset.sh: the whole file or none, and never from the start again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hub import Hub, serving
from rendering import CHECKOUT

SCRIPT = CHECKOUT / "scripts" / "download_financial_dataset.sh"
MADE = "financial-alpaca.json"
RECORDS = [
    {"instruction": f"What is {n}%?", "input": "", "output": f"{n} of 100. É", "text": ""}
    for n in range(17160)
]
HUB = Hub(json.dumps(RECORDS).encode())

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def download(hub: Hub, folder: Path) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment = {**clean, "DATASET_DIR": str(folder), "HF_ENDPOINT": f"{hub.address}/"}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_first_records_are_made(tmp_path: Path) -> None:
    with serving(replace(HUB, ranges=[])) as hub:
        assert download(hub, tmp_path / "a b")[0] == 0
        assert os.listdir(tmp_path / "a b") == [MADE]
        lines = (tmp_path / "a b" / MADE).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == RECORDS[:17153]
        code, said = download(hub, tmp_path / "a b")
        assert (code, "is there already" in said) == (0, True)
        assert len(hub.ranges) == 1


def test_a_lost_connection_costs_only_what_was_not_there_yet(tmp_path: Path) -> None:
    with serving(replace(HUB, ranges=[], stop_after=100_000)) as hub:
        code, said = download(hub, tmp_path)
        assert code == 1
        assert "start again to go on" in said
        assert not (tmp_path / MADE).exists()
        hub.stop_after = None
        assert download(hub, tmp_path)[0] == 0
        assert hub.ranges[-1] == "bytes=100000-"
    assert os.listdir(tmp_path) == [MADE]


@pytest.mark.parametrize(
    ("content", "sent", "said"),
    [
        pytest.param(b"[1, 2, 3]", b"[1, 2, 4]", "is not what the Hub says it has", id="other bytes"),
        pytest.param(b"[1, 2, 3]", b"[1, 2, 3, 4]", "got 12 bytes, expected 9", id="too many"),
        pytest.param(b"<html>", None, "not JSON", id="no JSON"),
        pytest.param(b"[]", None, "expected a list of at least 17153 records", id="too few"),
        pytest.param(json.dumps([{}] * 17153).encode(), None, "record 0: expected a text", id="no columns"),
    ],
)
def test_what_is_wrong_leaves_nothing(tmp_path: Path, content: bytes, sent: bytes | None, said: str) -> None:
    with serving(Hub(content, sent)) as hub:
        code, text = download(hub, tmp_path)
    assert code == 1
    assert said in text
    assert os.listdir(tmp_path) == []


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    code, said = download(Hub(b"", address="http://127.0.0.1:9"), tmp_path)
    assert code == 1
    assert "cannot be reached" in said
    assert os.listdir(tmp_path) == []


def test_shellcheck_is_silent() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck is not None
    subprocess.run([shellcheck, SCRIPT], check=True, timeout=60)


@pytest.mark.parametrize("name", [".financial-alpaca.part", ".financial-alpaca.part.new"])
def test_a_link_in_the_way_is_not_followed(tmp_path: Path, name: str) -> None:
    keys, folder = tmp_path / "keys", tmp_path / "dataset"
    keys.write_text("my keys\n")
    folder.mkdir()
    (folder / name).symlink_to(keys)
    with serving(HUB) as hub:
        code, said = download(hub, folder)
    assert (code, "is a link" in said) == (1, True)
    assert keys.read_text() == "my keys\n"
