"""Models and data sets that are named on the Hub: fetched once, with progress, and clear words where not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from cli_runner import assignments, run_apart
from minimal_settings import PLAIN
from serving_hub import ServingHub, serving_hub

PARTIAL = "hub/models--somebody--tiny/blobs/{}.incomplete"


@pytest.fixture
def hub(model_folder: Path, data_file: Path, tmp_path: Path) -> Iterator[ServingHub]:
    data = tmp_path / "set"
    data.mkdir()
    shutil.copy(data_file, data / f"train{data_file.suffix}")
    with serving_hub({"models/somebody/tiny": model_folder, "datasets/somebody/set": data}) as hub:
        yield hub


def options(out: Path) -> list[str]:
    names = {"modelNameOrPath": "somebody/tiny", "train__datasetName": "somebody/set"}
    return assignments(**{**PLAIN, **names, "train__outputDir": str(out), "train__maxSteps": 2})


def test_what_was_downloaded_serves_without_the_hub(hub: ServingHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    killed, alive = (home / PARTIAL.format(name) for name in ("killed", "alive"))
    for partial in (killed, alive):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"0" * 1000)
    two_hours_ago = time.time() - 7200
    os.utime(killed, (two_hours_ago, two_hours_ago))

    first = run_apart(*options(tmp_path / "first"), HF_HOME=str(home), HF_ENDPOINT=hub.address)
    assert first.code == 0, first.text
    assert "downloading somebody/tiny: " in first.text
    assert hub.served.count("model.safetensors") == 1
    assert alive.exists()
    assert not killed.exists()

    nowhere = "http://127.0.0.1:9"
    second = run_apart(*options(tmp_path / "second"), HF_HOME=str(home), HF_ENDPOINT=nowhere)
    assert second.code == 0, second.text
    assert "downloading" not in second.text


def test_a_cache_that_cannot_be_written_is_named(hub: ServingHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    home = tmp_path / "file" / "home"
    done = run_apart(*options(tmp_path / "out"), HF_HOME=str(home), HF_ENDPOINT=hub.address)
    assert done.code == 5, done.text
    assert f"{home}/hub/models--somebody--tiny/blobs: cannot be written: Not a directory" in done.text


def test_weights_that_a_repository_holds_twice_are_fetched_once(model_folder: Path, tmp_path: Path) -> None:
    """Beside numbered files stand the same weights as a whole, and for other tools."""
    folder = tmp_path / "twice"
    shutil.copytree(model_folder, folder)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    for other in ("consolidated.safetensors", "original/model.safetensors", "model-fp16.safetensors"):
        (folder / other).parent.mkdir(exist_ok=True)
        shutil.copy(model_folder / "model.safetensors", folder / other)
    named = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values()
    assert len(set(named)) > 1
    fetching = "from llm_finetune.models.resolve import fetch\n"
    fetching += "fetch('somebody/twice', None, weights=True, code=False)"
    with serving_hub({"models/somebody/twice": folder}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        subprocess.run([sys.executable, "-c", fetching], env=environment, check=True)
    assert {file for file in hub.served if file.endswith(".safetensors")} == set(named)


PROGRAM = """
import logging, sys
from llm_finetune.errors import OutputError
from llm_finetune.models import hub_download
from llm_finetune.runtime import shutdown
from llm_finetune.storage import errors

logging.basicConfig(level=logging.INFO, format="%(message)s")
hub_download.SECONDS_BETWEEN_LINES = 0.3
shutdown.SECONDS_TO_EXIT = 0.5
shutdown.install_handlers()
free = int(sys.argv[1])
errors.free_bytes = lambda path: free
try:
    print(hub_download.download("somebody/large", None, ["*.safetensors"], "model"))
except OutputError as error:
    print(error)
"""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[ServingHub]:
    """25 MB, which take two seconds; the client writes ten at once."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(25_000_000))
    with serving_hub({"models/somebody/large": folder}, seconds_a_chunk=0.08) as hub:
        yield hub


def started(hub: ServingHub, home: Path, free_bytes: int = 100_000_000) -> subprocess.Popen[str]:
    """A download, in a process of its own: the environment is read once."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(free_bytes)],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_long_download_tells_how_far_it_is(large: ServingHub, tmp_path: Path) -> None:
    folder, log = started(large, tmp_path / "home").communicate()
    assert Path(folder.strip(), "model.safetensors").stat().st_size == 25_000_000
    assert "downloading somebody/large: 25 MB\n" in log
    assert re.search(r"downloading somebody/large: \S+ [kM]B of 25 MB, \d\.\d s left", log), log


def test_without_room_nothing_is_fetched(large: ServingHub, tmp_path: Path) -> None:
    said, _ = started(large, tmp_path / "home", free_bytes=15_000_000).communicate()
    assert "cannot be written: No space left on device (25.0 MB needed, 15.0 MB free)" in said
    assert not large.served


def test_one_that_is_told_to_stop_does_not_go_on_to_the_end_of_its_file(
    large: ServingHub, tmp_path: Path
) -> None:
    large.seconds_a_chunk = 10
    process = started(large, tmp_path / "home")
    while not large.served:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log
    assert "rerun the same command" in log
