"""From files to rows on disk, through the door of the data room."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from made_up import Prepare, byte_level, instructions, trained_text, whole_text, write_json

from llm_finetune.data import Columns, PrepareSpec, Source, Split, open_prepared, prepare
from llm_finetune.errors import DataError

ROWS = instructions(60)


def texts(split: Split, tokenizer: Any) -> list[str]:
    return [text for row in split for text in whole_text(row, tokenizer)]


@pytest.mark.parametrize("packing", [True, False])
def test_what_is_trained_on_is_the_answer_and_its_end(
    prepared: Prepare, tokenizer: Any, packing: bool
) -> None:
    train = prepared(ROWS, packing=packing).train
    trained = Counter(text for row in train for text in trained_text(row, tokenizer))
    assert trained == Counter(row["output"] + "</s>" for row in ROWS)


def test_sections_read_as_the_documentation_says(prepared: Prepare, tokenizer: Any) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Sing.", "input": "", "output": "la"},
        {"instruction": "Sing.", "output": "lo"},
    ]
    assert sorted(texts(prepared(rows, packing=False).train, tokenizer)) == sorted(
        [
            "<s>Answer with the input.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3</s>",
            "<s>Answer.\n\n### Instruction:\nSing.\n\n### Response:\nla</s>",
            "<s>Answer.\n\n### Instruction:\nSing.\n\n### Response:\nlo</s>",
        ]
    )


def test_plain_input_and_output_have_no_instruction_section(prepared: Prepare, tokenizer: Any) -> None:
    split = prepared([{"input": "1 2", "output": "3"}]).train
    assert texts(split, tokenizer) == ["<s>Answer with the input.\n\n### Input:\n1 2\n\n### Response:\n3</s>"]


def test_renamed_columns(prepared: Prepare, tokenizer: Any) -> None:
    rows = [
        {"q": row["instruction"], "ctx": row["input"], "a": row["output"], "messages": []} for row in ROWS
    ]
    renamed = prepared(rows, columns=Columns(instruction="q", input="ctx", output="a"))
    assert sorted(texts(renamed.train, tokenizer)) == sorted(texts(prepared(ROWS).train, tokenizer))


def test_the_tokens_are_those_of_the_whole_text(prepared: Prepare, tokenizer: Any) -> None:
    for row in prepared(ROWS).train:
        for segment, text in zip(row.samples, whole_text(row, tokenizer), strict=True):
            assert segment.input_ids.tolist() == tokenizer(text.removeprefix("<s>"))["input_ids"]


def test_the_prompt_is_tokenized_as_it_will_be_when_the_model_is_asked(
    prepared: Prepare, tokenizer: Any
) -> None:
    for row in prepared(ROWS).train:
        for segment, text in zip(row.samples, whole_text(row, tokenizer), strict=True):
            prompt = text.removeprefix("<s>").partition("### Response:\n")[0] + "### Response:\n"
            untrained = segment.input_ids[segment.labels < 0]
            assert untrained.tolist() == tokenizer(prompt)["input_ids"]


def test_an_answer_that_melts_into_the_prompt_is_tokenized_apart(prepared: Prepare) -> None:
    # "\n\n" is one token of this tokenizer; the prompt ends in the first, the answer begins with the second.
    tokenizer = byte_level()
    tokenizer.add_tokens(["\n\n"])
    row = prepared([{"instruction": "Go", "output": "\nyes"}], using=tokenizer).train[0]
    assert trained_text(row, tokenizer) == ["\nyes</s>"]
    assert whole_text(row, tokenizer)[0].endswith("### Response:\n\nyes</s>")


def test_the_first_token_of_a_record_has_no_label(prepared: Prepare, tokenizer: Any) -> None:
    for row in prepared([{"text": " ".join(f"word{i}" for i in range(300))}], max_length=64).train:
        for segment in row.samples:
            assert segment.labels[0] == -100
            assert np.array_equal(segment.labels[1:], segment.input_ids[1:])
            assert segment.input_ids.dtype == np.int32
            assert segment.labels.dtype == np.int64


def test_loss_on_the_prompt_trains_on_all_but_the_first_token(prepared: Prepare) -> None:
    for row in prepared(ROWS, loss_on_prompt=True).train:
        for segment in row.samples:
            assert np.array_equal(segment.labels[1:], segment.input_ids[1:])


def test_every_record_keeps_its_place(prepared: Prepare, tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("not data")
    write_json(folder / "deep" / "b.json", ROWS[20:])
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) + "\n" for row in ROWS[:20]))
    train = prepared(folder).train
    for index, row in enumerate(train):
        for (source, file, number), text in zip(
            train.provenance(index), whole_text(row, tokenizer), strict=True
        ):
            assert source == 0
            record = ROWS[(number - 1) // 2] if file == "a.jsonl" else ROWS[20 + number - 1]
            assert record["instruction"] in text


def as_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def as_csv(path: Path) -> None:
    import csv

    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, ROWS[0])
        table.writeheader()
        table.writerows(ROWS)


FORMATS = {
    "rows.json": lambda path: write_json(path, ROWS),
    "pretty.json": lambda path: path.write_text("\ufeff \n" + json.dumps(ROWS, indent=3, ensure_ascii=False)),
    "lines.json": lambda path: path.write_text("\n".join(map(json.dumps, ROWS))),
    "rows.jsonl": lambda path: path.write_text("\r\n".join(map(json.dumps, ROWS))),
    "rows.csv": as_csv,
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_records(
    prepared: Prepare, tokenizer: Any, tmp_path: Path, name: str, compressed: bool
) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    if compressed:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert texts(prepared(path).train, tokenizer) == texts(prepared(ROWS).train, tokenizer)


def test_a_json_file_is_read_across_the_borders_of_its_blocks(prepared: Prepare, tokenizer: Any) -> None:
    rows = [
        {"instruction": f"{i}", "output": 'naïve \\ "x" ' * 40, "ballast": "b" * 150_000} for i in range(20)
    ]
    assert prepared(rows).summary.train.records == 20


def test_a_paragraph_of_plain_text_is_a_record(prepared: Prepare, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "book.md"
    path.write_text("one\nand more\n\n\n  \ntwo\n\nthree")
    train = prepared(path, packing=False).train
    found = {
        text: train.provenance(i)[0][2]
        for i, row in enumerate(train)
        for text in whole_text(row, byte_level())
    }
    assert found == {"<s>one\nand more</s>": 1, "<s>two</s>": 6, "<s>three</s>": 8}


def test_long_text_is_split_and_every_token_is_predicted_once(
    prepared: Prepare, tokenizer: Any, tmp_path: Path
) -> None:
    text = " ".join(f"{i} cats" for i in range(400))
    result = prepared([{"text": text}], max_length=50, packing=False)
    assert result.summary.train.split_records == 1
    labels = np.concatenate([segment.labels[1:] for row in result.train for segment in row.samples])
    assert labels.tolist() == [*tokenizer(text)["input_ids"][1:], tokenizer.eos_token_id]
    assert all(len(row) <= 50 for row in result.train)


def test_truncation_cuts_the_prompt_first_and_then_the_answer(prepared: Prepare, tokenizer: Any) -> None:
    long_prompt = {"instruction": "cat " * 200, "output": "short answer"}
    long_answer = {"instruction": "go", "output": "cat " * 300}
    both_long = {"instruction": "cat " * 200, "output": "green birds " * 200}
    result = prepared([long_prompt, long_answer, both_long], max_length=64, packing=False)
    rows = {result.train.provenance(i)[0][2]: row for i, row in enumerate(result.train)}
    assert [len(row) for row in rows.values()] == [64] * 3
    assert all(row.samples[0].input_ids[0] == tokenizer.bos_token_id for row in rows.values())
    assert trained_text(rows[1], tokenizer) == ["short answer</s>"]
    assert whole_text(rows[1], tokenizer)[0].endswith("### Response:\nshort answer</s>")
    assert not trained_text(rows[2], tokenizer)[0].endswith("</s>")
    assert (rows[3].samples[0].labels < 0).sum() == 16
    summary = result.summary.train
    assert (summary.truncated_prompts, summary.cut_answers) == (3, 2)


def test_too_long_can_be_refused(prepared: Prepare, tmp_path: Path) -> None:
    rows = [*ROWS[:2], *({"instruction": "go", "output": f"{i} " + "cat " * 500} for i in range(25))]
    with pytest.raises(DataError) as error:
        prepared(rows, too_long="error")
    assert len(error.value.problems) == 21
    assert "records.json, row 3: " in error.value.problems[0]
    assert "25" in error.value.problems[-1]
    assert not list((tmp_path / "cache").iterdir())


def test_the_summary_counts_what_is_there(prepared: Prepare) -> None:
    result = prepared(ROWS, validation_share=0.25, max_length=128)
    for split, summary in (
        (result.train, result.summary.train),
        (result.validation, result.summary.validation),
    ):
        assert split is not None
        assert summary is not None
        segments = [segment for row in split for segment in row.samples]
        assert summary.records == len(segments)
        assert summary.tokens == sum(len(segment.input_ids) for segment in segments)
        assert summary.trained_tokens == sum(int((segment.labels >= 0).sum()) for segment in segments)
        assert summary.rows == len(split)
        assert summary.positions == len(split) * max(len(row) for row in split)
    assert result.summary.train.records + result.summary.validation.records == len(ROWS)


def plan_for(path: Path, **changes: Any) -> PrepareSpec:
    return dataclasses.replace(PrepareSpec(training=(Source(files=path),), max_length=128), **changes)


def test_a_second_run_finds_the_set_and_tokenizes_nothing(tmp_path: Path, tokenizer: Any) -> None:
    path = write_json(tmp_path / "records.json", ROWS * 20)
    reports: list[str] = []

    def run() -> Path:
        return prepare(plan_for(path), tokenizer, tmp_path / "cache", lambda _, what: reports.append(what))

    folder = run()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert len(reports) >= 2
    reports.clear()
    assert run() == folder
    assert reports == []
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_the_name_is_the_same_in_another_process_and_elsewhere(tmp_path: Path, tokenizer: Any) -> None:
    path = write_json(tmp_path / "records.json", ROWS)
    folder = prepare(plan_for(path), tokenizer, tmp_path / "cache")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(path, tmp_path / "elsewhere")
    program = (
        "import sys; from pathlib import Path; from transformers import AutoTokenizer\n"
        "from llm_finetune.data import PrepareSpec, Source, prepare\n"
        "plan = PrepareSpec(training=(Source(files=Path(sys.argv[1])),), max_length=128)\n"
        "print(prepare(plan, AutoTokenizer.from_pretrained(sys.argv[2]), Path(sys.argv[3])).name)"
    )
    arguments = [tmp_path / "elsewhere" / "records.json", tmp_path / "tokenizer", tmp_path / "other-cache"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == folder.name
    for file in folder.rglob("*.bin"):
        assert (
            file.read_bytes()
            == (tmp_path / "other-cache" / folder.name / file.relative_to(folder)).read_bytes()
        )


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 96},
        {"packing": False},
        {"seed": 43},
        {"validation_share": 0.5},
        {"with_validation": False},
        {"prompt_without_input": "Hello."},
        {"loss_on_prompt": True},
        {"too_long": "error"},
        {"max_samples": 7},
        {"columns": Columns(output="input")},
    ],
)
def test_the_name_changes_with_whatever_changes_the_content(
    tmp_path: Path, tokenizer: Any, change: dict[str, Any]
) -> None:
    rows = [{**row, "input": row["input"] or "something"} for row in ROWS]
    path = write_json(tmp_path / "records.json", rows)
    first = prepare(plan_for(path), tokenizer, tmp_path / "cache")
    assert prepare(plan_for(path, **change), tokenizer, tmp_path / "cache") != first


def test_the_name_changes_with_rows_and_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    path = write_json(tmp_path / "records.json", ROWS)
    names = {prepare(plan_for(path), tokenizer, tmp_path / "cache").name}
    names.add(prepare(plan_for(path), byte_level(bos=False), tmp_path / "cache").name)
    write_json(path, [*ROWS[:-1], {**ROWS[-1], "output": "other"}])
    names.add(prepare(plan_for(path), tokenizer, tmp_path / "cache").name)
    assert len(names) == 3


def test_the_callers_tokenizer_neither_shapes_the_set_nor_is_changed(tmp_path: Path) -> None:
    path = write_json(tmp_path / "records.json", ROWS)
    used = byte_level(bos=True)
    used.pad_token = "</s>"
    used(["a"], truncation=True, max_length=5, padding="max_length")
    fresh = byte_level(bos=True)
    fresh.pad_token = "</s>"
    before = used.backend_tokenizer.to_str()
    assert (
        prepare(plan_for(path), used, tmp_path / "a").name
        == prepare(plan_for(path), fresh, tmp_path / "b").name
    )
    assert used.backend_tokenizer.to_str() == before
    assert open_prepared(next((tmp_path / "a").iterdir())).summary.train.longest > 5


@pytest.mark.parametrize("damage", ["no summary", "cut tokens", "file gone", "empty summary", "empty folder"])
def test_a_set_that_is_not_whole_is_made_anew(tmp_path: Path, tokenizer: Any, damage: str) -> None:
    path = write_json(tmp_path / "records.json", ROWS)
    folder = prepare(plan_for(path), tokenizer, tmp_path / "cache")
    match damage:
        case "no summary":
            (folder / "prepared.json").unlink()
        case "cut tokens":
            os.truncate(folder / "train/tokens/input_ids.bin", 100)
        case "file gone":
            (folder / "validation/rows.bin").unlink()
        case "empty summary":
            (folder / "prepared.json").write_text("")
        case "empty folder":
            shutil.rmtree(folder)
            folder.mkdir()
    with pytest.raises(DataError):
        open_prepared(folder, patience_seconds=0, verify=False)
    assert prepare(plan_for(path), tokenizer, tmp_path / "cache") == folder
    assert len(open_prepared(folder).train) > 0
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_set_that_is_not_what_was_prepared_is_never_opened(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_json(tmp_path / "records.json", ROWS)
    folder = prepare(plan_for(path), tokenizer, tmp_path / "cache")
    right = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for file, content in right.items():
        for place in (len(content) // 3, len(content) - 2):
            spoiled = bytearray(content)
            spoiled[place] ^= 1
            file.write_bytes(spoiled)
            with pytest.raises(DataError, match="Prepare it again"):
                open_prepared(folder, patience_seconds=0)
            caplog.clear()
            assert prepare(plan_for(path), tokenizer, tmp_path / "cache") == folder
            assert "damaged" in caplog.text
            assert {file: file.read_bytes() for file in right} == right
            assert len(open_prepared(folder, patience_seconds=0).train) > 0


def test_opening_waits_for_a_folder_that_shows_late(tmp_path: Path, tokenizer: Any) -> None:
    import threading

    folder = prepare(plan_for(write_json(tmp_path / "records.json", ROWS)), tokenizer, tmp_path / "cache")
    hidden = folder.rename(folder.with_name("hidden"))
    threading.Timer(0.5, lambda: hidden.rename(folder)).start()
    assert len(open_prepared(folder).train) > 0


def test_rows_are_counted_from_either_end_and_iteration_ends(prepared: Prepare) -> None:
    train = prepared(ROWS).train
    assert len(list(train)) == len(train)
    assert np.array_equal(train[-1].samples[0].input_ids, train[len(train) - 1].samples[0].input_ids)
    with pytest.raises(IndexError):
        train[len(train)]


def test_real_records_and_a_real_tokenizer(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models/stories260K")
    path = shared / "data/medical_meadow_wikidoc_patient_information.json"
    plan = plan_for(path, max_samples=300, max_validation_samples=50, max_length=512)
    result = open_prepared(prepare(plan, tokenizer, tmp_path))
    answers = {row["output"].strip() + "</s>" for row in json.loads(path.read_text())}
    whole = [
        text
        for row in result.train
        for text, full in zip(trained_text(row, tokenizer), whole_text(row, tokenizer), strict=True)
        if full.startswith("<s> ###") and full.endswith("</s>")
    ]
    assert result.summary.train.records == 300
    assert len(whole) > 150
    assert {text.strip() for text in whole} <= answers
    assert result.summary.train.empty_share < 0.1


@pytest.mark.parametrize("hours", [-2, 2], ids=["two hours ago", "by a clock that is ahead"])
def test_what_a_killed_run_left_is_removed_once_nobody_can_be_writing_it(
    prepared: Prepare, hours: int
) -> None:
    done = prepared(ROWS)
    left = done.folder.with_name(f".{done.folder.name}.killed")
    shutil.copytree(done.folder, left)
    written = time.time() + 3600 * hours
    for path in (left, *left.rglob("*")):
        os.utime(path, (written, written))
    shutil.rmtree(done.folder)
    assert len(prepared(ROWS).train) == len(done.train)
    assert left.exists() == (hours > 0)
