"""The Python API: run a job as the command does, load its model, generate answers.

    from llm_finetune import generate, load_model, run

    results = run({"distributed": {"modelNameOrPath": "base", "train": {"dataFile": "mine.jsonl", ...}}})
    print(results.evaluation.tuned.perplexity)
    model = load_model(results.output_dir)
    print(generate(model, ["Make this small."]))

All else in this package is private: it changes without notice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_finetune.errors import UserError

if TYPE_CHECKING:
    from llm_finetune.config import Loaded
    from llm_finetune.data.inference_prompts import InferencePrompt
    from llm_finetune.evaluation.result import EvaluationResult
    from llm_finetune.generation.load import ModelFolder
    from llm_finetune.inference_benchmark.result import Speed
    from llm_finetune.quantization.result import QuantizationResult
    from llm_finetune.training.result import TrainingResult

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
BATCH_SIZE = 8  # prompts that are answered at once


@dataclass(frozen=True)
class Results:
    """What a job left in its output folder; None for what it did not do.

    Attributes:
        output_dir: with the model.
        evaluation: of the base and of the tuned model.
        benchmark: by the model's name, tuned or quantized.
    """

    output_dir: Path
    training: TrainingResult | None
    evaluation: EvaluationResult | None
    quantization: QuantizationResult | None
    benchmark: dict[str, Speed] | None


@dataclass(frozen=True)
class Model:
    """A model that answers, from `load_model`."""

    _loaded: ModelFolder
    _asking: InferencePrompt

    @property
    def model(self) -> Any:
        """As transformers, or peft, has it."""
        return self._loaded.model

    @property
    def tokenizer(self) -> Any:
        """As transformers has it."""
        return self._loaded.tokenizer

    @property
    def format(self) -> str:
        """The format of its prompts: chat, alpaca or text, as in its training."""
        return self._asking.format


def run(values: Mapping[str, Any] | str | Path | Sequence[str | Path], *, fresh: bool = False) -> Results:
    """Runs a job in processes of its own, as `llm-finetune run` does; its log goes to standard error.

    An interrupted run resumes; a finished one is not repeated.

    Args:
        values: the tree of a values file, or values files, of which a later one overrides an earlier one. The
            chart's own values lie beneath.
        fresh: ignore checkpoints and results, and start over.

    Raises:
        UserError: what is wrong, where, and what to do; each exit code has its subclass.
        KeyboardInterrupt: after the job has saved its last finished step.
    """
    from llm_finetune.config import handing_on
    from llm_finetune.host.interpreter import module
    from llm_finetune.runtime.parent_death import mark_children

    loaded = _load(values)
    command = [sys.executable, *module("llm_finetune.cli.main"), "run", *(["--fresh"] if fresh else [])]
    with tempfile.TemporaryDirectory() as folder, handing_on(loaded), mark_children():
        error_file = Path(folder) / "error.json"
        # A session of its own, so that Ctrl-C comes once: from here.
        process = subprocess.Popen(
            command, env={**os.environ, ERROR_FILE: str(error_file)}, start_new_session=True
        )
        try:
            exit_code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if exit_code:
            raise _error(exit_code, error_file)
    return read_results(loaded.settings.train.output_dir)


def read_results(output_dir: str | Path) -> Results:
    """Reads what an earlier job left in its output folder.

    Raises:
        OutputError: a file of results is broken.
    """
    from llm_finetune.evaluation.result import EvaluationResult
    from llm_finetune.inference_benchmark.result import BenchmarkResult
    from llm_finetune.quantization.result import QuantizationResult
    from llm_finetune.training.result import TrainingResult

    folder = Path(output_dir)
    benchmark = BenchmarkResult.read(folder)
    return Results(
        output_dir=folder,
        training=TrainingResult.read(folder),
        evaluation=EvaluationResult.read(folder),
        quantization=QuantizationResult.read(folder),
        benchmark=benchmark.root if benchmark else None,
    )


def load_model(folder: str | Path, *, trust_remote_code: bool = False) -> Model:
    """Loads an adapter with its base, a merged or a quantized model, no less exact than its files.

    Args:
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: what is wrong with the folder, and what to do.
    """
    from llm_finetune.data.inference_prompts import InferencePrompt
    from llm_finetune.data.prompt_config import PromptConfig
    from llm_finetune.generation.load import load_folder

    loaded = load_folder(Path(folder), trust_remote_code=trust_remote_code)
    return Model(loaded, InferencePrompt(loaded.tokenizer, PromptConfig.read(Path(folder))))


def generate(
    model: Model,
    prompts: Sequence[str],
    *,
    system: str = "",
    instruction: str = "",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """The model's answer to each prompt, in the format of its training, as `llm-finetune chat` uses it.

    Args:
        prompts: questions; for a model of plain text, texts to go on with.
        system: a system prompt.
        instruction: for models tuned on instructions with an input: what to do with each prompt.
        max_new_tokens: of an answer, at most.
        temperature: 0: always the likeliest token.
        top_k: sample from the k likeliest tokens; 0: from all.
        top_p: sample from the likeliest tokens that have this probability together.
        seed: the same one gives the same answers.

    Raises:
        DataError: a prompt does not fit into the model's context, or cannot be written as it wants it.
    """
    from llm_finetune.chat.conversation import ChatHistory
    from llm_finetune.generation.decoding import Sampling, prompt_room
    from llm_finetune.generation.detokenization import answers

    room = prompt_room(model.model, max_new_tokens)
    conversation = ChatHistory(model._asking, system, instruction)
    return answers(
        model.model,
        model.tokenizer,
        [conversation.prompt(prompt, room)[0] for prompt in prompts],
        max_new_tokens=max_new_tokens,
        end_ids=model._loaded.end_ids,
        batch_size=BATCH_SIZE,
        sampling=Sampling(temperature, top_k, top_p, seed),
        stop=model._asking.stop,
        continues=model.format == "text",
    )


def _load(values: Mapping[str, Any] | str | Path | Sequence[str | Path]) -> Loaded:
    from llm_finetune.config import load

    if isinstance(values, Mapping):
        return load([], [f"{key}={json.dumps(value)}" for key, value in values.items()])
    files = [values] if isinstance(values, str | Path) else values
    return load([Path(file) for file in files])


def _error(exit_code: int, error_file: Path) -> UserError:
    """What the job ended with, as what the command itself would have raised."""
    kinds = {kind.exit_code: kind for kind in UserError.__subclasses__()}
    try:
        message = str(json.loads(error_file.read_text(encoding="utf-8"))["message"])
    except (OSError, ValueError, KeyError, TypeError):  # a process that was killed, or several ranks
        message = f"the job ended with exit code {exit_code}; its log, above, says why"
    return kinds.get(exit_code, UserError)(message)
