"""The public names: a job, its results, its model and its answers, as the command gives them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llm_finetune
from cli_runner import SRC
from llm_finetune import generate, load_model, read_results, run
from llm_finetune.errors import ModelError, SettingsError

HEAVY = "{'torch', 'transformers', 'datasets', 'pyarrow', 'peft', 'numpy'}"


@pytest.fixture(scope="module")
def values(model_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("api")
    train = {
        "datasetName": None,
        "dataFile": str(data_file),
        "outputDir": str(folder / "out"),
        "maxSteps": 2,
        "maxSeqLength": 128,
        "bf16": "auto",
        "ddpBackend": "gloo",
        "useIpex": False,
        "reportTo": None,
        "loraTargetModules": "q_proj v_proj",
        "promptWithInput": None,
        "promptWithoutInput": None,
    }
    evaluation = {"validationSplitPercentage": 0.2, "numGeneratedSamples": 0}
    return {"distributed": {"modelNameOrPath": str(model_folder), "train": train, "eval": evaluation}}


def test_a_job_leaves_results_and_a_model_that_answers_as_chat_does(values: dict[str, Any]) -> None:
    results = run(values)
    assert results.training
    assert results.training.steps == 2
    assert results.evaluation
    assert results.evaluation.tuned
    assert results.evaluation.tuned.perplexity > 1
    assert results.quantization is None
    assert read_results(results.output_dir) == results
    assert run(values) == results, "finished, so not done again"
    model = load_model(results.output_dir)
    prompts = ["Red fox.", "Rain."] * 5
    answers = generate(model, prompts, max_new_tokens=8)
    assert len(answers) == len(prompts)
    assert answers[:2] == answers[2:4]
    lines = "".join(f"{prompt}\n" for prompt in prompts[:2])
    chat = [sys.executable, "-m", "llm_finetune.cli.main", "chat", str(results.output_dir)]
    options = ["--temperature", "0", "--max-new-tokens", "8"]
    done = subprocess.run([*chat, *options], input=lines, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(answers[0]), "the first line of a pipe is a conversation's first question"


def test_what_is_wrong_is_raised_as_what_it_is(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"distributed\.trian: .*did you mean train\?"):
        run({"distributed": {"trian": {}}})
    missing = {**values["distributed"], "modelNameOrPath": str(tmp_path / "none")}
    missing["train"] = {**missing["train"], "outputDir": str(tmp_path / "out")}
    with pytest.raises(ModelError, match="none"):
        run({"distributed": missing})


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); import llm_finetune; "
    code += f"print({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert {*llm_finetune.__all__} <= {*dir(llm_finetune.api)}
