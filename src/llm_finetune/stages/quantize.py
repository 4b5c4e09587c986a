"""The quantization of the tuned model, with what it costs in perplexity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm_finetune.config import Settings
from llm_finetune.distributed import Ranks, join
from llm_finetune.evaluation.perplexity import evaluate
from llm_finetune.kernels.precision import Precision
from llm_finetune.models.merging import absent_weights, find_tuned, is_at_hand
from llm_finetune.models.resolve import has_weights
from llm_finetune.models.safetensors_io import StoredWeights
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.inputs import tuned_folder
from llm_finetune.pipeline.stage import Run, Stage
from llm_finetune.quantization.quantize import (
    calibration_texts,
    check_quantization,
    check_weights,
    quantize,
)
from llm_finetune.quantization.result import QuantizationResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Quantize(Stage):
    """Leaves a quantized model in quantize.outputDir."""

    name = "quantize"
    results = (QuantizationResult,)

    def enabled(self, settings: Settings) -> bool:
        """See `Stage`."""
        return settings.do_quantize

    def check(self, settings: Settings, folder: Path, meta_model: PreTrainedModel) -> None:
        """See `Stage`."""
        config = meta_model.config
        trust, to_quantize = settings.trust_remote_code, tuned_folder(settings, folder)
        if settings.do_train:
            stored = StoredWeights(folder) if has_weights(folder) else None
            check_weights(absent_weights(meta_model, stored), folder)
        elif is_at_hand(to_quantize):
            tuned = find_tuned(to_quantize, trust)
            check_weights(tuned.absent, tuned.folder)
            config = tuned.config
        check_quantization(
            settings.quantize,
            config,
            Path(settings.train.output_dir),
            has_records=bool(settings.train.data_file or settings.train.dataset_name),
            trust_remote_code=trust,
        )

    def inputs(self, sources: Sources) -> StageInputs:
        """See `Stage`."""
        model = sources.model_in("quantize", "peftModelDir")
        # The validation records count by the perplexity.
        return {**model, **sources.section("quantize"), **sources.validation_records()}

    def model_folder(self, settings: Settings) -> Path:
        """See `Stage`."""
        return Path(settings.quantize.output_dir)

    def run(self, run: Run) -> QuantizationResult:
        """See `Stage`."""
        settings, inputs = run.settings, run.inputs
        validation = inputs.prepared.validation if inputs.prepared else None
        count = settings.quantize.calibration_samples
        texts = calibration_texts(inputs.prepared.train, count) if inputs.prepared else []

        def perplexity(model: PreTrainedModel) -> float:
            assert validation
            with join("gloo", Ranks(0, 1, 0, 1), deadline_seconds=1) as alone:
                return evaluate(
                    model,
                    validation,
                    run.objective,
                    batch_size=settings.eval.per_device_batch_size,
                    pad_id=inputs.pad_id,
                    precision=Precision(model.dtype, autocast=False),
                    group=alone,
                ).perplexity

        tuned = find_tuned(tuned_folder(settings, inputs.folder), settings.trust_remote_code)
        return quantize(tuned, settings.quantize, texts, perplexity if validation else None)
