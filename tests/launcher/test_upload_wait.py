"""Waiting for what is copied to the volume while the workers run: absent, growing, cut short, whole."""

from __future__ import annotations

import gzip
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_finetune.config import Settings, from_values, load
from llm_finetune.errors import DataError, ModelError, UserError
from llm_finetune.launcher import upload_wait
from llm_finetune.launcher.file_integrity import missing_end
from llm_finetune.launcher.upload_wait import Awaited, Copying, await_all, awaited_on

COPYING = Copying("llm-dataaccess-0", "team")
RECORD = '{"instruction": "a", "output": "b"}\n'


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become fractions."""
    monkeypatch.setattr(upload_wait, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(upload_wait, "STILL_SECONDS", 0.5)


def awaited(path: Path, error: type[UserError] = DataError) -> Any:
    return iter([Awaited("distributed.train.dataFile", path, error)])


def settings(**changes: Any) -> Settings:
    tree = load([]).settings.to_values()
    tree["train"] |= {"datasetName": None, "dataFile": changes.pop("dataFile")}
    return from_values({**tree, **changes})


def test_only_what_lies_on_the_volume_is_waited_for(tmp_path: Path) -> None:
    on_it = settings(dataFile=str(tmp_path / "data" / "x.json"), modelNameOrPath=str(tmp_path / "base"))
    assert [(one.key, one.error) for one in awaited_on(tmp_path, on_it)] == [
        ("distributed.train.dataFile", DataError),
        ("distributed.modelNameOrPath", ModelError),
    ]
    elsewhere = settings(dataFile="/workspace/x.json", modelNameOrPath="owner/model")
    assert list(awaited_on(tmp_path, elsewhere)) == []


def test_a_missing_file_ends_with_the_command_that_copies_it(tmp_path: Path) -> None:
    file = tmp_path / "dataset" / "x.json"
    with pytest.raises(DataError) as refusal:
        await_all(awaited(file), 0.005, COPYING)
    first, last = refusal.value.problems
    assert "distributed.train.dataFile" in first
    assert "is not there yet" in first
    assert last == (
        f"run: kubectl -n team exec llm-dataaccess-0 -- mkdir -p '{tmp_path}/dataset' && "
        f"kubectl -n team cp 'x.json' 'llm-dataaccess-0:{file}'"
    )


def test_the_log_says_what_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(DataError):
        await_all(awaited(tmp_path / "x.json"), 0.005, COPYING)
    assert f"{tmp_path / 'x.json'} is not there yet" in caplog.text


def test_a_file_that_grows_is_not_there_before_it_stops(tmp_path: Path) -> None:
    """Each line that is written makes a whole file: only its growth tells that more comes."""
    file = tmp_path / "x.jsonl"
    done: list[float] = []

    def copy() -> None:
        with file.open("w") as stream:
            for _ in range(10):
                stream.write(RECORD)
                stream.flush()
                time.sleep(0.1)
        done.append(time.monotonic())

    copying = threading.Thread(target=copy)
    copying.start()
    await_all(awaited(file), 1, COPYING)
    assert done
    copying.join()


def test_a_file_that_was_there_before_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_wait, "STILL_SECONDS", 1000.0)
    file = tmp_path / "x.jsonl"
    file.write_text(RECORD)
    os.utime(file, (time.time() - 120, time.time() - 120))
    await_all(awaited(file), 0, COPYING)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("[" + RECORD[:20])
    os.utime(file, (time.time() - 120, time.time() - 120))
    with pytest.raises(DataError, match=r"x\.json is cut short: x\.json: it does not end with \]") as refusal:
        await_all(awaited(file), 60, COPYING)
    assert "Copy it again; run: kubectl" in refusal.value.problems[-1]


def test_a_model_folder_is_there_with_all_that_its_index_names(tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    weights = (model_folder / "model.safetensors").read_bytes()
    (folder / "config.json").write_text("{}\n")
    (folder / "model-1.safetensors").write_bytes(weights)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-2\.safetensors, which it names, is not there"):
        await_all(awaited(folder, ModelError), 0.02, COPYING)
    (folder / "model-2.safetensors").write_bytes(weights)
    await_all(awaited(folder, ModelError), 1, COPYING)


def whole_files(model_folder: Path) -> dict[str, bytes]:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"output": ["a"]}), sink)
    return {
        "list.json": b'[{"a": 1},\n {"a": 2}]\n',
        "object.json": b'{\n  "a": 1\n}\n',
        "lines.json": b'{"a": 1}\n{"a": 2}\n\n',
        "lines.jsonl": b'{"a": 1}\n{"a": 2}',
        "lines.jsonl.gz": gzip.compress(b'{"a": 1}\n' * 100),
        "table.parquet": sink.getvalue().to_pybytes(),
        "model.safetensors": (model_folder / "model.safetensors").read_bytes(),
    }


def test_every_format_with_an_end_is_missed_without_it(tmp_path: Path, model_folder: Path) -> None:
    for name, content in whole_files(model_folder).items():
        file = tmp_path / name
        file.write_bytes(content)
        assert missing_end(file) is None, name
        body = len(content.rstrip())
        for length in (0, 1, body // 3, body - 1):
            file.write_bytes(content[:length])
            assert missing_end(file), (name, length)


def test_a_format_without_an_end_is_taken_as_it_is(tmp_path: Path) -> None:
    make: Callable[[str], int] = (tmp_path / "x.csv").write_text
    make("a,b\n1")
    assert missing_end(tmp_path / "x.csv") is None


def test_what_is_there_and_no_file_is_called_so(tmp_path: Path) -> None:
    loop, pipe, folder = tmp_path / "loop", tmp_path / "pipe", tmp_path / "folder"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    folder.mkdir()
    said = {
        loop / "x.json": "cannot be looked at (Too many levels of symbolic links)",
        pipe: "is no file and no folder",
        folder: "is an empty folder yet",
    }
    for path, words in said.items():
        with pytest.raises(DataError) as refusal:
            await_all(awaited(path), 0.0, COPYING)
        assert f"{path} {words}" in refusal.value.problems[0]
