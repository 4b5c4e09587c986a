"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one by one, and the remaining columns
compensate for the error, weighted by the inputs' second moments on the calibration texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_finetune.errors import ModelError
from llm_finetune.quantization import neural_compressor
from llm_finetune.quantization.decoder_blocks import Block, walk
from llm_finetune.quantization.packed_weights import QuantizedWeight, Scheme

COLUMNS_AT_ONCE = 128


def gptq(
    model: PreTrainedModel, scheme: Scheme, texts: Sequence[Sequence[int]]
) -> Iterator[tuple[str, QuantizedWeight]]:
    """The linear layers of the decoder blocks, each as soon as it is done."""
    for block in walk(model, texts):
        solvers = _solvers(block, scheme)
        _show_inputs(block, solvers)
        for path, linear in block.linears().items():
            # No calibration text reached the layer (a routed expert), so nothing is known of its inputs.
            if solvers[path].nsamples:
                yield f"{block.path}.{path}", _solve(solvers[path], linear, scheme)


def _solvers(block: Block, scheme: Scheme) -> dict[str, Any]:
    """neural-compressor's solver for each linear layer."""
    gptq = neural_compressor.weight_only("gptq")
    config = {
        "dtype": "int",
        "bits": scheme.bits,
        "sym": scheme.symmetric,
        "perchannel": True,
        "mse": False,
        "use_double_quant": False,
        "double_quant_sym": False,
    }
    solvers = {}
    for path, linear in block.linears().items():
        solvers[path] = gptq.GPTQ(linear, linear.weight.data)
        solvers[path].quantizer.configure(config)
    return solvers


def _show_inputs(block: Block, solvers: dict[str, Any]) -> None:
    """Runs the texts through the block; each solver sees its layer's inputs."""

    def shown(solver: Any) -> Any:
        return lambda _, inputs, output: solver.add_batch(inputs[0], output)

    hooks = [linear.register_forward_hook(shown(solvers[path])) for path, linear in block.linears().items()]
    block.run_watched(hooks)


@torch.no_grad()
def _solve(solver: Any, linear: Any, scheme: Scheme) -> QuantizedWeight:
    """The codes; the layer continues with the rounded weights."""
    columns = solver.columns
    group = scheme.group_in(columns)
    try:
        scales, _, zero_points, rounded = solver.fasterquant(
            linear.weight.data,
            # Corrections reach a group's range only when a new stretch of columns begins.
            blocksize=min(group, COLUMNS_AT_ONCE),
            groupsize=-1 if group == columns else group,
        )
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ModelError(
            "GPTQ cannot solve for a layer's weights from so few texts; raise "
            "distributed.quantize.calibrationSamples, or write RTN"
        ) from error
    linear.weight.data = rounded
    matrix = rounded.T if isinstance(linear, Conv1D) else rounded
    each = torch.arange(columns) // group
    codes = torch.round(matrix / scales[:, each] + zero_points[:, each])
    return QuantizedWeight.from_codes(scheme, codes, scales, None if scheme.symmetric else zero_points)
