"""The evaluation: the base model before it is trained, and the tuned one, on the same validation records."""

from __future__ import annotations

import torch

from llm_finetune.config import Settings
from llm_finetune.evaluation.evaluator import evaluate_model, load_base_evaluation, save_base_evaluation
from llm_finetune.evaluation.result import EvaluationResult, ModelEvaluation, compare
from llm_finetune.kernels.training.optimize import optimize_lora_layers
from llm_finetune.models.saving import load_tuned
from llm_finetune.pipeline.all_results import AllResults, write_all_results
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.run_directory import holds_base
from llm_finetune.pipeline.stage import Run, Stage


class Evaluate(Stage):
    """Loss, perplexity and a few answers of both models."""

    name = "evaluate"
    results = (AllResults, EvaluationResult)
    on_all_ranks = True

    def enabled(self, settings: Settings) -> bool:
        """See `Stage`."""
        return settings.do_eval

    def inputs(self, sources: Sources) -> StageInputs:
        """See `Stage`."""
        model = sources.model_in("train", "outputDir")
        return {**model, **sources.validation_records(), **sources.section("eval")}

    def prepare(self, run: Run) -> None:
        """Evaluates the base model before it is trained, unless this run did so before it was interrupted."""
        settings = run.settings
        if not settings.eval.evaluate_base_model and settings.do_train:
            return
        path = run.directory.path

        def look() -> str:
            return "saved" if holds_base(path, run.outputs[self.name].inputs) else ""

        if run.directory.continues and run.group.on_rank_zero("base evaluation", look, deadline_seconds=3600):
            run.base_evaluation = load_base_evaluation(path) if run.is_main_process else None
            return
        run.base_evaluation = _evaluated("base", run.base_model(), run)
        if run.base_evaluation and settings.do_train and run.is_main_process:
            save_base_evaluation(run.base_evaluation, run.outputs[self.name].inputs, path)

    def run(self, run: Run) -> EvaluationResult | None:
        """Evaluates the tuned model, just trained or as it stands in outputDir."""
        model = run.tuned or _tuned(run)
        tuned = _evaluated("tuned", model, run) if model else None
        return compare(run.base_evaluation, tuned)

    def write(self, run: Run, result: EvaluationResult | None) -> None:
        """See `Stage`."""
        if result:
            result.write(run.directory.path)
        write_all_results(run.directory.path, result)


def _tuned(run: Run) -> torch.nn.Module | None:
    """The tuned model of an earlier round of this run, or of another job; None: there is none."""
    settings, model = run.settings, run.base_model()
    tuned = load_tuned(model, run.directory.path, run.precision.weights, settings.trust_remote_code)
    if tuned and settings.do_train:
        # The evaluation computes as in the process that trained the model, to the last digit.
        if not run.on_cpu:
            tuned.to("cuda")
        elif settings.train.use_lora:
            optimize_lora_layers(tuned, settings.train.optimizations.fused_lora)
        elif tuned is not model:
            run.optimize(tuned)
    return tuned


def _evaluated(name: str, model: torch.nn.Module, run: Run) -> ModelEvaluation | None:
    """The evaluation of the model; None where there are no validation records."""
    inputs, settings = run.inputs, run.settings
    if not inputs.prepared or not inputs.prepared.validation:
        return None
    evaluation = evaluate_model(
        name,
        model,
        inputs.prepared.validation,
        settings.eval,
        run.objective,
        tokenizer=inputs.tokenizer,
        pad_id=inputs.pad_id,
        precision=run.precision,
        group=run.group,
    )
    # The main process has answered prompts meanwhile, longer perhaps than a collective waits.
    run.group.barrier(settings.preparation_timeout_minutes * 60)
    return evaluation
