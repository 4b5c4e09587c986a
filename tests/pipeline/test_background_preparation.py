"""Data that a process of its own prepares: the same as without it, and nothing of it outlives the job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_finetune.config import load
from llm_finetune.errors import DataError
from llm_finetune.models.loading import load_tokenizer
from llm_finetune.pipeline.prepare_data import prepare_data
from tiny_model import write_records

Values = dict[str, object]

START = """
import json, multiprocessing, os, pathlib, signal, sys, time
from llm_finetune.errors import DataError
from llm_finetune.config import load
from llm_finetune.pipeline import background_preparation as room
from llm_finetune.pipeline.background_preparation import background_preparation

room.available_cores = lambda: int(os.environ.get("CORES", "2"))
with background_preparation(load([], [sys.argv[1]]).settings) as ahead:
    process = next(iter(multiprocessing.active_children()), None)
    print(process.pid if process else 0, flush=True)
"""
ASK = """
    try:
        print(json.dumps(str(ahead())))
    except DataError as error:
        print(json.dumps(error.problems))
assert "torch" not in sys.modules
"""
WRITING = """
    while not list(pathlib.Path(os.environ["HF_DATASETS_CACHE"]).rglob("*.bin")):
        time.sleep(0.01)
"""
LEAVE = "    raise SystemExit"
KILLED = "    os.kill(os.getpid(), signal.SIGKILL)"
ITS_END = "    os.kill(process.pid, signal.SIGKILL); print(json.dumps(str(ahead())))"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_records(tmp_path / "records.jsonl", range(60))


@pytest.fixture
def values(model_folder: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Values:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    train = {"dataFile": str(records), "datasetName": None, "maxSeqLength": 64}
    return {"modelNameOrPath": str(model_folder), "train": train}


def apart(values: Values, then: str) -> tuple[int, str]:
    """Starts preparing in a process without torch; returns the preparing one's id, and what was printed."""
    command = [sys.executable, "-c", START + then, f"distributed={json.dumps(values)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    number, _, printed = done.stdout.partition("\n")
    return int(number), printed


def here(values: Values, model_folder: Path) -> Path:
    settings = load([], [f"distributed={json.dumps(values)}"]).settings
    return prepare_data(settings, load_tokenizer(model_folder, False))


def test_it_is_the_set_that_this_process_would_prepare(values: Values, model_folder: Path) -> None:
    _, printed = apart(values, ASK)
    prepared = Path(json.loads(printed))
    written = {file: file.stat().st_mtime_ns for file in prepared.rglob("*")}
    assert here(values, model_folder) == prepared
    assert {file: file.stat().st_mtime_ns for file in prepared.rglob("*")} == written


def test_what_is_wrong_with_the_records_is_said_as_here(
    values: Values, model_folder: Path, records: Path
) -> None:
    records.write_text('{"instruction": 7, "output": "x"}\n{"instruction": "y"}\n')
    _, printed = apart(values, ASK)
    with pytest.raises(DataError) as error:
        here(values, model_folder)
    assert json.loads(printed) == error.value.problems


def test_any_other_trouble_is_left_to_this_process(values: Values, tmp_path: Path) -> None:
    _, printed = apart({**values, "modelNameOrPath": str(tmp_path / "nothing")}, ASK)
    assert json.loads(printed) == "None"
    _, printed = apart(values, ITS_END)
    assert json.loads(printed) == "None"


def test_a_single_core_is_left_to_this_process(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORES", "1")
    assert apart(values, ASK) == (0, '"None"\n')


@pytest.mark.parametrize("end", [LEAVE, KILLED])
def test_it_ends_with_this_process_and_leaves_nothing_half_written(
    values: Values, records: Path, tmp_path: Path, end: str
) -> None:
    write_records(records, range(100_000))
    number, _ = apart(values, WRITING + end)
    deadline = time.monotonic() + 20
    while is_there(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(number)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
