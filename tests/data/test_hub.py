"""Data sets of the Hub: splits of a local one, and what a Hub that refuses or is not there leads to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from made_up import instructions

from llm_finetune.data import Prepared, PrepareSpec, Source, open_prepared, prepare
from llm_finetune.errors import DataError
from served import served
from serving_hub import COMMIT, serving_hub

ROWS = instructions(40)


def data_set(folder: Path, **splits: list[dict[str, str]]) -> str:
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.fixture
def run(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()

    def run(name: str, split: str | None = None, config: str | None = None, **plan: Any) -> Prepared:
        source = Source(dataset=name, split=split, config=config)
        return open_prepared(prepare(PrepareSpec(training=(source,), **plan), tokenizer, tmp_path / "cache"))

    return run


def test_the_validation_split_comes_first_then_test_then_a_share(run: Any, tmp_path: Path) -> None:
    train, validation, test = ROWS[:30], ROWS[30:36], ROWS[36:]
    both = run(data_set(tmp_path / "both", train=train, validation=validation, test=test))
    assert both.summary.validation.records == 6
    assert both.summary.validation_from.startswith("the split 'validation'")
    tested = run(data_set(tmp_path / "tested", train=train, test=[*test, train[0]]))
    assert tested.summary.validation.records == 5
    assert tested.summary.kept_for_validation_only == 1
    assert tested.summary.train.records == 29
    alone = run(data_set(tmp_path / "alone", train=train), validation_share=0.2)
    assert (alone.summary.train.records, alone.summary.validation.records) == (24, 6)
    without = run(str(tmp_path / "both"), with_validation=False)
    assert (without.summary.train.records, without.validation) == (30, None)


def test_training_on_another_split(run: Any, tmp_path: Path) -> None:
    name = data_set(tmp_path / "set", train=ROWS[:30], test=ROWS[30:])
    result = run(name, split="test", validation_share=0.5)
    assert (result.summary.train.records, result.summary.validation.records) == (5, 5)
    assert result.train.provenance(0)[0][1] == "test"


def test_unknown_splits_and_configurations_are_named_with_those_there_are(run: Any, tmp_path: Path) -> None:
    name = data_set(tmp_path / "set", train=ROWS[:30], test=ROWS[30:])
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test.*datasetSplit"):
        run(name, split="dev")
    with pytest.raises(DataError, match=r"'odd' not found.*default.*datasetConfig"):
        run(name, config="odd")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void: the data set cannot be loaded"):
        run(str(tmp_path / "void"))


def test_a_source_is_one_thing() -> None:
    for wrong in ({}, {"files": Path("a"), "dataset": "b"}):
        with pytest.raises(DataError, match="exactly one"):
            Source(**wrong)


class Refusing(BaseHTTPRequestHandler):
    """A Hub whose answer the first part of the name asks for: `401/any`, `gated/any`."""

    def do_GET(self) -> None:
        what = self.path.split("/")[3]
        named = {
            "gated": (403, "GatedRepo"),
            "revision": (404, "RevisionNotFound"),
            "missing": (404, "RepoNotFound"),
        }
        status, code = named[what] if what in named else (int(what), "")
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 (the base class asks for this name)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with served(Refusing) as address:
        yield address


PROGRAM = """
import os, sys
from llm_finetune.data import Source
from llm_finetune.data.sources.local import open_sources
from llm_finetune.errors import DataError
for name in sys.argv[1:]:
    try:
        open_sources([Source(dataset=name, revision=os.environ["REVISION"])], [], True)
    except DataError as error:
        print(error)
"""


def answers(names: list[str], endpoint: str, home: Path, **environment: str) -> list[str]:
    """What is said of each data set; in a process of its own: the environment is read once."""
    environment = {"REVISION": "v9", "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment}
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout.splitlines()


def test_a_hub_that_refuses(hub: str, tmp_path: Path) -> None:
    expected = {
        "401/set": "401.*(token|private)",
        "403/set": "refuses access.*403.*token",
        "gated/set": "gated.*Ask for access at",
        "revision/set": "no revision 'v9'",
        "missing/set": "no such data set.*404",
        "503/set": "answers status 503.*later",
        "a/b/c/d": "neither a folder nor a name on the Hub.*dataFile",
    }
    said = answers(list(expected), hub, tmp_path)
    assert len(said) == len(expected)
    for line, (name, pattern) in zip(said, expected.items(), strict=True):
        assert line.startswith(f"{name}: ")
        assert re.search(pattern, line), line


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_that_is_not_there(tmp_path: Path, environment: dict[str, str]) -> None:
    said = answers(["some/set"], "http://127.0.0.1:9", tmp_path, **environment)
    assert len(said) == 1
    assert "some/set: the Hugging Face Hub cannot be reached" in said[0]
    assert "dataFile" in said[0]


def test_what_is_in_the_cache_serves_while_the_hub_does_not(hub: str, tmp_path: Path) -> None:
    folder, home = Path(data_set(tmp_path / "set", train=ROWS)), tmp_path / "home"
    names = ["503/set", "401/set"]
    with serving_hub({f"datasets/{name}": folder for name in names}) as open_hub:
        assert answers(names, open_hub.address, home) == []
    assert answers(names, hub, home) == []
    assert answers(names, hub, home, REVISION=COMMIT) == []
    for line in answers(names, hub, home, REVISION="f" * 40):
        assert re.search(rf"/set: the Hub .*status \d+\)?, and the cache holds commit {COMMIT} of it", line)
