"""The evaluation: the base model before it is trained, and the tuned one, on the same validation records."""

from __future__ import annotations

import torch

from llm_finetune.config import Settings
from llm_finetune.evaluation.evaluator import ModelEvaluation, judge, keep, kept, write_results
from llm_finetune.kernels.training.optimize import optimize_lora_layers
from llm_finetune.models.saving import load_tuned
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.run_directory import holds_base
from llm_finetune.pipeline.stage import Run, Stage
from llm_finetune.storage import results


class Evaluate(Stage):
    """Loss, perplexity and a few answers of both models."""

    name = "evaluate"
    results = (results.ALL, results.EVAL)
    on_all_ranks = True

    def enabled(self, settings: Settings) -> bool:
        """See `Stage`."""
        return settings.do_eval

    def inputs(self, sources: Sources) -> StageInputs:
        """See `Stage`."""
        model = sources.model_in("train", "outputDir")
        return {**model, **sources.validation_records(), **sources.section("eval")}

    def prepare(self, run: Run) -> None:
        """Judges the base model while it is one; an earlier round of this run may have done so."""
        settings = run.settings
        if not settings.eval.base and settings.do_train:
            return
        path = run.directory.path

        def look() -> str:
            return "kept" if holds_base(path, run.outputs[self.name].inputs) else ""

        if run.directory.continues and run.group.once("base evaluation", look, deadline_seconds=3600):
            run.base_evaluation = kept(path) if run.is_main_process else None
            return
        run.base_evaluation = _evaluated("base", run.base_model(), run)
        if run.base_evaluation and settings.do_train and run.is_main_process:
            keep(run.base_evaluation, run.outputs[self.name].inputs, path)

    def run(self, run: Run) -> ModelEvaluation | None:
        """Judges the tuned model, just trained or as it stands in outputDir."""
        tuned = run.tuned or _tuned(run)
        return _evaluated("tuned", tuned, run) if tuned else None

    def write(self, run: Run, result: ModelEvaluation | None) -> None:
        """See `Stage`."""
        write_results(run.directory.path, run.base_evaluation, result)


def _tuned(run: Run) -> torch.nn.Module | None:
    """The tuned model of an earlier round of this run, or of another job; None: there is none."""
    settings, model = run.settings, run.base_model()
    tuned = load_tuned(model, run.directory.path, run.precision.weights, settings.trust_remote_code)
    if tuned and settings.do_train:
        # What judges the model takes the same steps as in the process that trained it, to the last digit.
        if not run.on_cpu:
            tuned.to("cuda")
        elif settings.train.use_lora:
            optimize_lora_layers(tuned, settings.train.speed.adapters)
        elif tuned is not model:
            run.optimize(tuned)
    return tuned


def _evaluated(name: str, model: torch.nn.Module, run: Run) -> ModelEvaluation | None:
    """What the evaluation says of the model; None where there are no validation records."""
    inputs, settings = run.inputs, run.settings
    if not inputs.prepared or not inputs.prepared.validation:
        return None
    evaluation = judge(
        name,
        model,
        inputs.prepared.validation,
        settings.eval,
        tokenizer=inputs.tokenizer,
        pad_id=inputs.pad_id,
        precision=run.precision,
        group=run.group,
    )
    # The main process has answered prompts meanwhile, longer perhaps than a collective waits.
    run.group.barrier(settings.wait_for_preparation_minutes * 60)
    return evaluation
