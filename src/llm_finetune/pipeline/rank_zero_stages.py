"""The stages behind training and evaluation, which rank 0 does by itself once the group is left."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, set_seed

from llm_finetune.config import Settings
from llm_finetune.distributed import Ranks, join
from llm_finetune.evaluation.perplexity import evaluate
from llm_finetune.inference_benchmark.benchmark import benchmark
from llm_finetune.kernels.precision import Precision
from llm_finetune.models.merging import find_tuned
from llm_finetune.pipeline.fingerprint import StageInputs
from llm_finetune.pipeline.inputs import Inputs, tuned_folder
from llm_finetune.pipeline.run_directory import RunDirectory
from llm_finetune.quantization.quantize import calibration_texts, quantize
from llm_finetune.quantization.quantized_model import DESCRIPTION
from llm_finetune.report.html import write_report
from llm_finetune.storage import results


def run_rank_zero_stages(
    settings: Settings, inputs: Inputs, folder: RunDirectory, left: dict[str, StageInputs]
) -> None:
    """Quantizes and measures, as far as that is left to do, and writes the report.

    Args:
        left: the stages that are not done, with what decides their results.
    """
    for stage, work in {"quantize": _quantize, "benchmark": _benchmark}.items():
        if stage in left:
            # Whatever an earlier stage drew, or none did, this one draws the same numbers.
            set_seed(settings.train.seed)
            work(settings, inputs, folder.path)
            folder.finish(stage, left[stage])
    write_report(folder.path)
    folder.finish("report", left["report"])


def _quantize(settings: Settings, inputs: Inputs, output: Path) -> None:
    validation = inputs.prepared.validation if inputs.prepared else None
    count = settings.quantize.calibration_samples
    texts = calibration_texts(inputs.prepared.train, count) if inputs.prepared else []

    def perplexity(model: PreTrainedModel) -> float:
        assert validation
        precision = Precision(model.dtype, autocast=False)
        with join("gloo", Ranks(0, 1, 0, 1), deadline_seconds=1) as alone:
            return evaluate(
                model,
                validation,
                batch_size=settings.eval.per_device_batch_size,
                pad_id=inputs.pad_id,
                precision=precision,
                group=alone,
            ).perplexity

    result = quantize(
        find_tuned(tuned_folder(settings, inputs.folder), settings.trust_remote_code),
        settings.quantize,
        texts,
        perplexity if validation else None,
    )
    results.write_result(output / results.QUANTIZE, result.to_json())


def _benchmark(settings: Settings, inputs: Inputs, output: Path) -> None:
    quantized = Path(settings.quantize.output_dir)
    is_ours = settings.do_quantize or not settings.do_train
    folders = {
        "tuned": tuned_folder(settings, inputs.folder),
        "quantized": quantized if is_ours and (quantized / DESCRIPTION).is_file() else None,
    }
    figures = benchmark(folders, settings.benchmark, trust_remote_code=settings.trust_remote_code)
    results.write_result(output / results.BENCHMARK, figures)
