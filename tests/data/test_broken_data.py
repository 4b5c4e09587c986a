"""Broken data: one clear error that names the place, and nothing is written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import byte_level, instructions

from fuzz import fuzz
from llm_finetune.data import Columns, PrepareSpec, Source, prepare
from llm_finetune.errors import DataError

ROWS = instructions(50)
TOKENIZER = byte_level()
LINES = [json.dumps(row) for row in ROWS]


def as_json(*rows: Any) -> bytes:
    return json.dumps(rows).encode()


def talk(*turns: Any) -> bytes:
    return as_json({"messages": list(turns)})


def with_row(row: Any) -> bytes:
    return as_json(ROWS[0], row, ROWS[1])


def parquet(*rows: dict[str, Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return bytes(sink.getvalue())


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "c"}
CSV = b"instruction,input,output\n"

# name of the case: (file name, its bytes, what the error says)
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty file": ("a.json", b"", "no row"),
    "only white space": ("a.jsonl", b" \n\n ", "no row"),
    "empty array": ("a.json", b"[]", "no row"),
    "empty gzip": ("a.txt.gz", gzip.compress(b""), "no row"),
    "only a header": ("a.csv", CSV, "no row"),
    "unknown suffix": ("a.docx", b"PK", "Allowed are .*json.*parquet"),
    "cut array": ("a.json", as_json(*ROWS)[:-30], "row 50: .*cut short"),
    "array that does not end": ("a.json", as_json(*ROWS)[:-1], "row 51: expected .*the end of the file"),
    "missing comma": ("a.json", as_json(*ROWS[:2]).replace(b"}, {", b"} {"), "row 2: expected ','"),
    "comma too many": ("a.json", as_json(ROWS[0])[:-1] + b",]", "row 2: not JSON"),
    "text behind the array": ("a.json", as_json(ROWS[0]) + b" x", "end of the file"),
    "deep nesting": ("a.json", b"[" * 100_000, "row 1: not JSON"),
    "pretty object": ("a.json", json.dumps(ROWS[0], indent=1).encode(), "row 1: .*one object a line"),
    "bad line": ("a.jsonl", "\n".join([*LINES[:4], "{oops}"]).encode(), "row 5: not JSON"),
    "cut line": ("a.jsonl", "\n".join(LINES)[:-5].encode(), "row 50: not JSON"),
    "row that is a number": ("a.json", with_row(17), r"row 2: the row is 17 \(int\)"),
    "first row that is a list": ("a.json", as_json([1]), "row 1: a row is .*list"),
    "missing column": ("a.json", with_row({"instruction": "a"}), "row 2: there is no column 'output'"),
    "missing instruction": ("a.json", with_row({"output": "a"}), "row 2: there is no column 'instruction'"),
    "number for text": ("a.json", with_row({**ROWS[0], "output": 3}), r"row 2: column 'output' is 3 \(int\)"),
    "list for input": ("a.json", with_row({**ROWS[0], "input": ["x"]}), "row 2: column 'input' is .*list"),
    "empty answer": ("a.json", with_row({**ROWS[0], "output": " \n"}), "row 2: column 'output' is empty"),
    "null answer": ("a.json", with_row({**ROWS[0], "output": None}), "row 2: column 'output' is empty"),
    "empty question": ("a.json", with_row({"instruction": "", "output": "a"}), "row 2: columns .* are empty"),
    "half a character": ("a.json", with_row({**ROWS[0], "output": "a\ud800"}), "row 2: .*'output' holds"),
    "bad byte in json": ("a.json", b'[{"input": "a", "output": "caf\xe9"}]', "row 1: .*'output'.*0xe9.*UTF"),
    "bad byte in a line": ("a.jsonl", b'{"input": "\xff", "output": "b"}', "row 1: .*'input'.*0xff"),
    "bad byte in csv": ("a.csv", CSV + b"a,b,c\nd,\xfc,e", "row 3: column 'input'.*0xfc"),
    "bad byte in text": ("a.txt", b"one\n\ntw\xf6", "row 3: column 'text'.*0xf6.*character 2"),
    "UTF-16": ("a.csv", CSV.decode().encode("utf-16"), "UTF-16.*UTF-8"),
    "unknown columns": ("a.json", as_json({"q": "a", "a": "b"}), "columns are 'q', 'a'.*ColumnName"),
    "csv with another separator": ("a.csv", b"instruction;output\na;b", "columns are 'instruction;output'"),
    "csv row too long": ("a.csv", CSV + b"a,b,c\na,b,c,d", "row 3: 4 columns where the header has 3"),
    "csv row too short": ("a.csv", CSV + b"a", "row 2: 1 columns where the header has 3"),
    "csv quote left open": ("a.csv", CSV + b'a,b,c\na,b,"c', "row 3: not CSV"),
    "csv header twice": ("a.csv", b"output,output\na,b", "names a column twice"),
    "gzip that is none": ("a.json.gz", as_json(*ROWS), "gzip"),
    "cut gzip": ("a.jsonl.gz", gzip.compress("\n".join(LINES).encode())[:-12], "gzip stream is cut short"),
    "cut parquet": ("a.parquet", parquet(*ROWS)[:-40], "not a whole Parquet file"),
    "parquet that is none": ("a.parquet", as_json(*ROWS), "not a whole Parquet file"),
    "number in parquet": ("a.parquet", parquet({"input": "a", "output": 1}), "row 1: column 'output' is 1"),
    "messages that are text": ("a.json", as_json({"messages": "hi"}), "row 1: column 'messages' is 'hi'"),
    "no messages": ("a.json", talk(), "row 1: column 'messages' is .*list of"),
    "no assistant turn": ("a.json", talk(USER), "no assistant turn"),
    "assistant first": ("a.json", talk(ASSISTANT, USER), "begins with the assistant"),
    "system in between": ("a.json", talk(USER, SYSTEM, ASSISTANT), "system turn behind"),
    "tool": ("a.json", talk(USER, {"role": "tool", "content": "x"}, ASSISTANT), r"messages\[1\] uses a tool"),
    "tool call": ("a.json", talk(USER, {**ASSISTANT, "tool_calls": [{}]}), r"messages\[1\] uses a tool"),
    "unknown role": ("a.json", talk({**USER, "role": "human"}), r"messages\[0\]: the role is 'human'"),
    "from and value": ("a.json", talk({"from": "human", "value": "x"}), r"messages\[0\]: the role is None"),
    "empty turn": ("a.json", talk(USER, {**ASSISTANT, "content": ""}), r"messages\[1\]: .*content.*empty"),
    "turn without content": ("a.json", talk({"role": "user"}), r"messages\[0\]: there is no column"),
}  # fmt: skip


def run(path: Path, **plan: Any) -> Path:
    arguments = {"training": (Source(files=path),), "validation_share": 0.0, **plan}
    return prepare(PrepareSpec(**arguments), TOKENIZER, path.parent / "cache")


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_named_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        run(tmp_path / name)
    assert len(error.value.problems) == 1
    assert str(tmp_path / name) in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_the_first_twenty_problems_and_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([LINES[0], *['{"instruction": "a", "output": ""}'] * 33]))
    with pytest.raises(DataError) as error:
        run(tmp_path / "a.jsonl")
    assert [f"row {row}: " in problem for row, problem in enumerate(error.value.problems[:20], start=2)] == [
        True
    ] * 20
    assert "20 of 33" in error.value.problems[20]
    assert len(error.value.problems) == 21


def test_problems_of_several_files_come_together(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.json").write_bytes(as_json(*ROWS))
    (folder / "b.json").write_bytes(as_json(*ROWS)[:-9])
    (folder / "c.json").write_bytes(with_row({}))
    with pytest.raises(DataError) as error:
        run(folder)
    assert ["b.json" in error.value.problems[0], "c.json" in error.value.problems[1]] == [True, True]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_bytes(as_json(*ROWS))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden.json").write_bytes(as_json(*ROWS))
    expected = {
        "record.json": "Near names there: records.json",
        "no/a.json": "nor the directory",
        "empty": "no data file",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message):
            run(tmp_path / name)


def test_a_named_column_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(as_json(*ROWS))
    for columns in (Columns(instruction="question"), Columns(output="answer"), Columns(input="context")):
        with pytest.raises(DataError, match=r"question|answer|context"):
            run(tmp_path / "a.json", columns=columns)
    for data_type in ("text", "messages"):
        with pytest.raises(DataError, match=f"expected '{data_type}'"):
            run(tmp_path / "a.json", data_type=data_type)


def test_a_bad_validation_file_is_found_before_anything_is_tokenized(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(as_json(*ROWS))
    (tmp_path / "b.json").write_bytes(with_row({**ROWS[0], "output": ""}))
    with pytest.raises(DataError, match=r"b\.json, row 2"):
        run(tmp_path / "a.json", validation=(Source(files=tmp_path / "b.json"),))
    assert not (tmp_path / "cache").exists()


def test_data_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(LINES * 20))

    def shorten(_: int, what: str) -> None:
        if what == "records checked":
            path.write_text("\n".join(LINES))

    plan = PrepareSpec(training=(Source(files=path),))
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(plan, TOKENIZER, tmp_path / "cache", shorten)
    assert not list((tmp_path / "cache").iterdir())


def test_instruction_records_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(as_json(*ROWS))
    with pytest.raises(DataError, match="overflowStrategy is split"):
        run(tmp_path / "a.json", too_long="split")


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A good file with a stretch of it replaced."""
    place = st.integers(0, len(content))
    return st.builds(
        lambda start, length, filling: content[:start] + filling + content[start + length :],
        place, st.integers(0, 50), st.binary(max_size=20),
    )  # fmt: skip


GOOD: dict[str, Callable[[], bytes]] = {
    "a.json": lambda: as_json(*ROWS[:6]),
    "a.jsonl": lambda: "\n".join(LINES[:6]).encode(),
    "a.csv": lambda: CSV + b'a,"b ""x""\ny",c\nd,e,f\n' * 5,
    "a.txt": lambda: b"some text\n\nmore text\n" * 5,
    "a.json.gz": lambda: gzip.compress(as_json(*ROWS[:6]), mtime=0),
    "a.parquet": lambda: parquet(*ROWS[:6]),
    "a.parquet.gz": lambda: gzip.compress(parquet(*ROWS[:6]), mtime=0),
    "talk.json": lambda: talk(SYSTEM, USER, ASSISTANT),
    "talk.parquet": lambda: parquet({"messages": [USER, ASSISTANT]}),
}


@pytest.mark.parametrize("name", GOOD)
@fuzz(60)
@given(data=st.data())
def test_rubbish_is_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = data.draw(st.one_of(st.binary(max_size=200), damaged(GOOD[name]())))
    folder = tmp_path_factory.mktemp("rubbish")
    (folder / name).write_bytes(content)
    try:
        run(folder / name)
    except DataError as refusal:
        problems = refusal.problems
    else:
        return
    assert str(folder / name) in problems[0]
    assert not (folder / "cache").exists() or not list((folder / "cache").iterdir())
