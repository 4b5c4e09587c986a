"""A small file never takes gigabytes, and what is too large is named."""

from __future__ import annotations

import gzip
import io
import json
import re
import resource
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from made_up import byte_level, instructions, write_json

from llm_finetune.data import PrepareSpec, Source, prepare, preview
from llm_finetune.data.sources.file_formats import read_rows
from llm_finetune.errors import DataError

MEGA = 1024 * 1024


def parquet(table: pyarrow.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, compression="zstd", **options)
    return stream.getvalue()


def repeated(values: list[str], count: int) -> pyarrow.Array:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), values)


def nested(count: int) -> pyarrow.Array:
    """One conversation of so many turns of a megabyte."""
    content = repeated(["x" * MEGA], count)
    role = repeated(["user"], count)
    turns = pyarrow.StructArray.from_arrays([role, content], ["role", "content"])
    return pyarrow.ListArray.from_arrays([0, count], turns)


USER, ASSISTANT = {"role": "user", "content": "q" * 9000}, {"role": "assistant", "content": "a"}
BOMBS: dict[str, tuple[str, Any, str]] = {
    "text in a dictionary": (
        "a.parquet",
        lambda: parquet(pyarrow.table({"text": repeated(["x" * MEGA], 3000)})),
        "bytes unpack to more than 268,435,456",
    ),
    "without the schema of Arrow": (
        "a.parquet",
        lambda: parquet(pyarrow.table({"text": repeated(["x" * MEGA], 3000)}), store_schema=False),
        "bytes unpack to more than 268,435,456",
    ),
    "one long row": (
        "a.parquet",
        lambda: parquet(pyarrow.table({"text": ["x" * (40 * MEGA)]}), use_dictionary=False),
        "after row 0: the next row has more than 33,554,432 bytes",
    ),
    "one long conversation": (
        "a.parquet",
        lambda: parquet(pyarrow.table({"messages": nested(200)})),
        "after row 0: the next row has more than 33,554,432 bytes",
    ),
    "a line": ("a.jsonl", lambda: b'{"text": "' + b"x" * (40 * MEGA), "after row 0: the line has more than"),
    "a line of gzip": (
        "a.jsonl.gz",
        lambda: gzip.compress(b'{"text": "a"}\n{"text": "' + b"x" * (40 * MEGA), 1),
        "after row 1: the line has more than",
    ),
    "empty lines": (
        "a.txt.gz",
        lambda: gzip.compress(b" " * MEGA + b"\n", 1) * 300,
        "bytes unpack to more than 276,",
    ),
    "a value of an array": (
        "a.json",
        lambda: b'[{"text": "a"}, ["' + b"x" * (80 * MEGA),
        "after row 1: the next value has more than",
    ),
    "a row of csv": (
        "a.csv",
        lambda: b'text\na\n"' + (b"x" * MEGA + b"\n") * 40,
        "after row 2: the next row has more than",
    ),
    "columns": (
        "a.csv",
        lambda: b",".join(b"%d" % i for i in range(20_000)),
        "20,000 columns; expected 10,000",
    ),
    "a record": (
        "a.jsonl",
        lambda: json.dumps({"text": "x " * (5 * MEGA)}).encode(),
        "row 1: the record has 10,485,760 characters; expected 8,388,608 at most",
    ),
    "a conversation": (
        "a.json",
        lambda: json.dumps([{"messages": [USER, ASSISTANT] * 400}]).encode(),
        "row 1: column 'messages' has 400 answers in 3,600,400 characters",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_is_too_large_is_named(tmp_path: Path, case: str) -> None:
    name, content, message = BOMBS[case]
    (tmp_path / name).write_bytes(content())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = PrepareSpec(training=(Source(files=tmp_path / name),), validation_share=0)
    with pytest.raises(DataError, match=message) as error:
        prepare(plan, byte_level(), tmp_path / "cache")
    assert str(tmp_path / name) in str(error.value)
    assert len(error.value.problems) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * 1024  # KB


def test_what_a_parquet_file_says_of_its_size_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_finetune.data.limits._ALWAYS_ALLOWED", MEGA)
    file = tmp_path / "a.parquet"
    file.write_bytes(parquet(pyarrow.table({"text": ["x" * (8 * MEGA)]}), use_dictionary=False))
    with pytest.raises(DataError, match=r"after row 0: its .* bytes unpack to more than 1,048,576"):
        list(read_rows(file))


def test_what_is_large_but_right_is_read(tmp_path: Path) -> None:
    rows = [{"text": "word " * MEGA}, {"text": "b"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.parquet").write_bytes(parquet(pyarrow.Table.from_pylist(rows)))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes(), 1))
    for file in tmp_path.iterdir():
        assert [row for _, row in read_rows(file)] == rows


def test_parquet_gives_each_type_as_it_is(tmp_path: Path) -> None:
    rows = [
        {
            "a": "x",
            "b": [{"c": "y", "d": [1, 2]}, {"c": None, "d": []}],
            "e": {"f": 1.5},
            "g": None,
            "h": b"z",
        },
        {"a": None, "b": None, "e": None, "g": True, "h": None},
    ] * 300
    (tmp_path / "a.parquet").write_bytes(parquet(pyarrow.Table.from_pylist(rows)))
    assert [row for _, row in read_rows(tmp_path / "a.parquet")] == rows


def linked(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_json(folder / "a.json", instructions(3))
    return folder


def read(path: Path) -> list[str]:
    from llm_finetune.data.sources.local import open_sources

    return [file.name for file in open_sources([Source(files=path)], [], False).training[0]]


def test_a_link_out_of_a_data_folder_is_refused(tmp_path: Path) -> None:
    folder = linked(tmp_path)
    (tmp_path / "token.txt").write_text("secret")
    (tmp_path / "others").mkdir()
    (folder / "b.txt").symlink_to(tmp_path / "token.txt")
    (folder / "c").symlink_to(tmp_path / "others")
    (folder / "d.txt").symlink_to("nowhere")
    (folder / "e.txt").symlink_to("e.txt")
    (folder / "f").symlink_to(folder)
    with pytest.raises(DataError) as error:
        read(folder)
    expected = [
        "b.txt: a link out of",
        "c: a link out of",
        "d.txt: .*nowhere",
        "e.txt: .*itself",
        "f: .*holds it",
    ]
    for problem, message in zip(error.value.problems, expected, strict=True):
        assert re.search(message, problem)


def test_links_within_a_data_folder_are_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap, here with a file in a folder of its own."""
    folder = tmp_path / "volume"
    stamped = folder / "..2026_11_30"
    (stamped / "sub").mkdir(parents=True)
    write_json(stamped / "a.json", instructions(3))
    write_json(stamped / "sub" / "b.json", instructions(3))
    (folder / "..data").symlink_to(stamped.name)
    (folder / "a.json").symlink_to("..data/a.json")
    (folder / "sub").symlink_to("..data/sub")
    (folder / "seen").mkdir()
    write_json(folder / "seen" / "c.json", instructions(3))
    (folder / "again").symlink_to("seen")
    assert read(folder) == ["a.json", "seen/c.json", "sub/b.json"]
    assert read(folder / "a.json") == ["a.json"]
    (tmp_path / "named").symlink_to(folder)
    assert read(tmp_path / "named") == ["a.json", "seen/c.json", "sub/b.json"]


def test_a_snapshot_of_the_hub_leads_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--owner--name"
    snapshot = repository / "snapshots" / "0123"
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_json(repository / "blobs" / "4567", instructions(3))
    (snapshot / "data" / "a.json").symlink_to("../../../blobs/4567")
    assert read(snapshot) == ["data/a.json"]
    assert read(snapshot / "data") == ["a.json"]


def test_the_preview_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    plan = PrepareSpec(training=(Source(files=write_json(tmp_path / "a.json", instructions(1))),))
    with pytest.raises(DataError, match="1 different records cannot be split") as run:
        prepare(plan, byte_level(), tmp_path / "cache")
    with pytest.raises(DataError) as shown:
        preview(plan, byte_level())
    assert shown.value.problems == run.value.problems
