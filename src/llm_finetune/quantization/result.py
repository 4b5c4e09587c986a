"""What a quantization leaves beside its model."""

from __future__ import annotations

from llm_finetune.storage.result import Result


class QuantizationResult(Result):
    """What a quantization did.

    Attributes:
        group_size: weights that share a scale; -1: those of a row.
        scheme: sym or asym.
        kernel: what runs the quantized layers on this machine.
        perplexity: of the quantized model; None where it was not evaluated.
        size_bytes: of the quantized model's weights, on disk.
        unquantized_size_bytes: of the same model's, before.
        seconds: without the evaluation.
    """

    file_name = "quantize_results.json"

    algorithm: str
    bits: int
    group_size: int = -1
    scheme: str = ""
    kernel: str = ""
    perplexity: float | None
    size_bytes: int
    unquantized_size_bytes: int
    seconds: float
