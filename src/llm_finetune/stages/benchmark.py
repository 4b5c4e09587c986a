"""The benchmark of the tuned and of the quantized model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.config import Settings
from llm_finetune.generation.decoding import context_length
from llm_finetune.inference_benchmark.benchmark import benchmark, check_context, shares_of_cores
from llm_finetune.inference_benchmark.result import BenchmarkResult
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.inputs import tuned_folder
from llm_finetune.pipeline.stage import Run, Stage
from llm_finetune.quantization.quantized_model import DESCRIPTION
from llm_finetune.stages.quantize import Quantize

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Benchmark(Stage):
    """How fast both answer on this machine."""

    name = "benchmark"
    results = (BenchmarkResult,)

    def enabled(self, settings: Settings) -> bool:
        """See `Stage`."""
        return settings.do_benchmark

    def check(self, settings: Settings, folder: Path, meta_model: PreTrainedModel) -> None:
        """See `Stage`."""
        shares_of_cores(settings.benchmark)
        check_context(settings.benchmark.prompt_tokens, context_length(meta_model))

    def inputs(self, sources: Sources) -> StageInputs:
        """See `Stage`."""
        values = sources.values
        models = {**Quantize().inputs(sources), "distributed.doQuantize": values["doQuantize"]}
        if not values["doTrain"] and not values["doQuantize"]:
            models |= sources.files("quantize", "outputDir")
        return {**models, **sources.section("benchmark")}

    def run(self, run: Run) -> BenchmarkResult:
        """See `Stage`."""
        settings = run.settings
        quantized = Path(settings.quantize.output_dir)
        is_ours = settings.do_quantize or not settings.do_train
        folders = {
            "tuned": tuned_folder(settings, run.inputs.folder),
            "quantized": quantized if is_ours and (quantized / DESCRIPTION).is_file() else None,
        }
        return benchmark(folders, settings.benchmark, trust_remote_code=settings.trust_remote_code)
