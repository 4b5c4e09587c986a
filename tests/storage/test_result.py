"""Result files: what is written is read again, whatever version wrote it; a broken one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_finetune.data.prompt_config import PromptConfig
from llm_finetune.errors import ModelError, OutputError
from llm_finetune.evaluation.result import BaseModelEvaluation, EvaluationResult, ModelScores
from llm_finetune.pipeline.run_record import RunRecord
from llm_finetune.training.result import CurvePoint, TrainingHistory, TrainingResult

TRAINING = {"train_loss": 3.0, "steps": 9, "seconds": 1.5, "tokens_per_second": 9.0, "peak_memory_bytes": 5}
PROMPTS = {"format": "chat", "with_input": "a", "without_input": "b"}
EVALUATED = {
    "deciding": {"key": 1},
    "judged": {
        "loss": {"loss": 3.0, "tokens": 9},
        "samples": [{"prompt": "p", "expected": "e", "answer": "a"}],
    },
}


def test_only_what_was_set_is_written_in_the_order_of_the_schema(tmp_path: Path) -> None:
    points = [CurvePoint(step=1, loss=float("nan")), CurvePoint(step=1, eval_loss=2.0)]
    TrainingHistory(points).write(tmp_path)
    assert "NaN" in (tmp_path / "train_history.json").read_text()
    found = TrainingHistory.read(tmp_path)
    assert found
    assert [list(point) for point in found.to_json()] == [["step", "loss"], ["step", "eval_loss"]]
    TrainingResult(**TRAINING).write(tmp_path)
    assert list(json.loads((tmp_path / "train_results.json").read_text())) == list(TRAINING)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_keys_of_another_version_are_read_over_and_kept_where_a_file_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "train_results.json"
    file.write_text(json.dumps({**TRAINING, "new": 1}))
    assert TrainingResult.read(tmp_path) == TrainingResult(**TRAINING)
    settings = {"modelNameOrPath": "m", "train": {"useLora": True, "gone": 5}, "gone": 6}
    record = {"deciding": {"key": 1}, "settings": settings, "stages": {"train": {"key": 1}}, "finished": True}
    (tmp_path / "run.json").write_text(json.dumps(record))
    found = RunRecord.read(tmp_path)
    assert found
    found.with_stage("evaluate", {}).write(tmp_path)
    stages = {"train": {"key": 1}, "evaluate": {}}
    assert json.loads((tmp_path / "run.json").read_text()) == {**record, "stages": stages}


@pytest.mark.parametrize(
    ("kind", "content"), [(PromptConfig, PROMPTS), (BaseModelEvaluation, EVALUATED)], ids=["prompts", "base"]
)
def test_a_file_under_its_former_name_is_read_until_there_is_a_new_one(
    kind: type[PromptConfig] | type[BaseModelEvaluation], content: dict[str, object], tmp_path: Path
) -> None:
    assert kind.former_name
    assert kind.read(tmp_path) is None
    former = tmp_path / kind.former_name
    former.write_text(json.dumps(content))
    found = kind.read(tmp_path)
    assert found
    assert found.to_json() == content
    found.write(tmp_path)
    former.write_text("{")
    assert kind.read(tmp_path) == found
    (tmp_path / kind.file_name).unlink()
    with pytest.raises((OutputError, ModelError), match=kind.former_name):
        kind.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", r"its content: found '\[\]', expected a valid dictionary"),
        (json.dumps({"train_loss": 1.0}), "steps is missing"),
        (json.dumps({**TRAINING, "seconds": "long"}), "seconds: found 'long', expected a valid number"),
    ],
)
def test_what_is_wrong_with_a_broken_file_is_said(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train_results.json").write_text(content)
    with pytest.raises(OutputError, match=f"train_results.json: .*{said}.*; delete it and rerun"):
        TrainingResult.read(tmp_path)


def test_metrics_are_numbers_by_name_and_those_not_known_are_no_error(tmp_path: Path) -> None:
    scores = {"loss": 2.0, "perplexity": 7.4, "exact_match": 0.5, "of_another_version": 0.1}
    (tmp_path / "eval_results.json").write_text(
        json.dumps({"eval_loss": 2.0, "perplexity": 7.4, "base": None, "tuned": scores, "samples": []})
    )
    found = EvaluationResult.read(tmp_path)
    assert found
    assert found.tuned
    assert found.tuned.metrics == {"exact_match": 0.5}
    with pytest.raises(ValueError, match="number"):
        ModelScores.model_validate({**scores, "exact_match": "half"})
