"""The preview: what would be trained on, taken from the very tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import instructions, write_json

from llm_finetune.data import PrepareSpec, Source, preview
from llm_finetune.errors import DataError

ROWS = instructions(60)


def plan_for(path: Path, **changes: Any) -> PrepareSpec:
    return PrepareSpec(training=(Source(files=path),), prompt_without_input="Answer.", **changes)


def test_the_first_records_are_shown_with_what_is_trained_on(tmp_path: Path, tokenizer: Any) -> None:
    path = write_json(tmp_path / "records.json", ROWS)
    result = preview(plan_for(path), tokenizer, examples=3)
    assert [example.place for example in result.examples] == [f"{path}, row {row}" for row in (1, 2, 3)]
    row = ROWS[0]
    expected = f"<s>Answer.\n\n### Instruction:\n{row['instruction']}\n\n### Response:\n⟦{row['output']}</s>⟧"
    assert str(result.examples[0]) == expected
    assert [piece.loss_mask for piece in result.examples[0].pieces] == [False, True]


def test_the_figures_are_those_of_the_records(tmp_path: Path, tokenizer: Any) -> None:
    path = write_json(tmp_path / "records.json", [*ROWS, {"instruction": "go", "output": "cat " * 999}])
    result = preview(plan_for(path, max_length=256), tokenizer, batch_size=4)
    assert (result.checked, result.all_checked, result.measured) == (61, True, 61)
    assert result.too_long == 1
    assert result.lengths["longest"] > 999
    assert (
        result.lengths["p50"] <= result.lengths["p90"] <= result.lengths["p99"] <= result.lengths["longest"]
    )
    assert result.packed.rows < result.padded.rows == 61
    assert result.packed.positions < result.padded.positions
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.json"]


def test_big_sources_are_checked_in_part_and_that_is_said(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The module, which the function of the same name hides.
    monkeypatch.setattr(sys.modules["llm_finetune.data.preview"], "CHECKED_RECORDS", 50)
    monkeypatch.setattr(sys.modules["llm_finetune.data.preview"], "MEASURED_RECORDS", 20)
    result = preview(plan_for(write_json(tmp_path / "records.json", ROWS)), tokenizer)
    assert (result.checked, result.all_checked, result.measured) == (50, False, 20)


def test_bad_rows_are_refused_here_too(tmp_path: Path, tokenizer: Any) -> None:
    path = write_json(tmp_path / "records.json", [*ROWS, {"instruction": "a", "output": ""}])
    with pytest.raises(DataError, match="row 61: column 'output' is empty"):
        preview(plan_for(path), tokenizer)
