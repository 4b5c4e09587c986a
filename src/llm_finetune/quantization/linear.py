"""Linear layers over quantized weights: by the native kernels where those run, else by torch's.

At one or a few rows a product costs what it takes to read the weights, and codes are smaller than bf16. At
many rows it costs arithmetic, at which bf16's matrix product is better: then the weights are unpacked for
that one call.

torch's kernels know two formats: 4 bits in groups of 32, 64, 128 or 256 with a scale and an offset each; and
8 bits with a scale for each row. They hold others exactly too: fewer bits, and groups made of theirs. They
are written for bf16 inputs; in fp32 they fall back to plain loops. In 4 bits the native ones
are twice as fast.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.nn.functional import linear

from llm_finetune.quantization.native_linear import NativeLinear, fits
from llm_finetune.quantization.packed_weights import QuantizedWeight, Scheme

INT4_GROUPS = (256, 128, 64, 32)
# Weights that are unpacked at once: what of them is between memory and the product stays in the cache.
UNPACKED_AT_ONCE = 2**20


class QuantizedLinear(torch.nn.Module):
    """A linear layer whose weight was quantized. It cannot be trained.

    Attributes:
        kernel: what multiplies, as reports name it.
        dequantize_from_rows: number of input rows from which unpacking is faster, as measured on a processor
            with AVX-512 and bf16.
    """

    kernel = ""
    dequantize_from_rows = 0
    bias: torch.Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape[0], weight.in_features
        self.register_buffer("bias", bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in) to (..., out), in the inputs' format."""
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) < self.dequantize_from_rows:
            rows = rows.to(torch.bfloat16).contiguous()
            # The kernels load whole vectors, from addresses that a view into another tensor need not have.
            rows = rows.clone() if rows.data_ptr() % 64 else rows
            outputs = self.multiply(rows).to(inputs.dtype)
        else:
            outputs = self.multiply_unpacked(rows)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        """By the kernel: bf16, shape (rows, in) to (rows, out)."""
        raise NotImplementedError

    def multiply_unpacked(self, rows: torch.Tensor) -> torch.Tensor:
        """By a product of matrices in the inputs' format."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, kernel={self.kernel}"


class Int4Linear(QuantizedLinear):
    """Up to 4 bits, in groups made of 32, 64, 128 or 256 weights."""

    kernel = "torch int4"
    dequantize_from_rows = 48
    codes: torch.Tensor
    scales_and_offsets: torch.Tensor

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        scheme, columns = weight.scheme, weight.in_features
        # Not a copy: the file's memory, which is only read for inputs of many rows.
        self.weight = weight
        self.group = int4_group(scheme, columns) or 0
        # The kernel's weight is scale * (code - 8) + offset, with an offset in bf16. Codes are shifted to
        # have their zero point near 8, so that the offset is small, and 0 in a symmetric scheme.
        offsets = (
            scheme.symmetric_zero_point - weight.unpacked_zero_points().float()
        ) * weight.scales.float()
        repeats = -(-scheme.group_in(columns) // self.group)
        tables = (table.repeat_interleave(repeats, dim=1) for table in (weight.scales.float(), offsets))
        scales_and_offsets = torch.stack([table[:, : columns // self.group].T for table in tables], dim=2)
        self.register_buffer("scales_and_offsets", scales_and_offsets.to(torch.bfloat16).contiguous())
        codes = weight.unpacked_codes().to(torch.int32) + (8 - scheme.symmetric_zero_point)
        self.register_buffer("codes", torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1))

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.codes, self.group, self.scales_and_offsets
        )
        return product

    def multiply_unpacked(self, rows: torch.Tensor) -> torch.Tensor:
        outputs = rows.new_empty(len(rows), self.out_features)
        step = max(16, UNPACKED_AT_ONCE // self.in_features)
        for first in range(0, self.out_features, step):
            last = min(first + step, self.out_features)
            outputs[:, first:last] = linear(rows, self.weight.rows(first, last).dequantize(rows.dtype))
        return outputs


class Int8Linear(QuantizedLinear):
    """Codes that fit into 8 bits with their sign, and a scale for each row."""

    kernel = "torch int8"
    dequantize_from_rows = 16
    codes: torch.Tensor
    scales: torch.Tensor
    kernel_scales: torch.Tensor

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        signed = weight.unpacked_codes().to(torch.int16) - weight.unpacked_zero_points().to(torch.int16)
        self.register_buffer("codes", signed.to(torch.int8))
        self.register_buffer("scales", weight.scales.flatten().float())
        self.register_buffer("kernel_scales", self.scales.to(torch.bfloat16))

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.kernel_scales)
        return product

    def multiply_unpacked(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.codes.to(rows.dtype)) * self.scales.to(rows.dtype)


class UnpackedLinear(torch.nn.Linear):
    """A plain layer, for weights that no kernel takes: unpacked once, when the model is loaded."""

    kernel = "unpacked"

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight.in_features, weight.codes.shape[0], bias is not None, device="meta")
        self.weight = torch.nn.Parameter(weight.dequantize(dtype), requires_grad=False)
        if bias is not None:
            self.bias = torch.nn.Parameter(bias, requires_grad=False)


def quantized_linear(
    weight: QuantizedWeight, bias: torch.Tensor | None, dtype: torch.dtype
) -> NativeLinear | QuantizedLinear | UnpackedLinear:
    """The fastest layer that holds these weights exactly.

    Args:
        dtype: of the model; also of `bias`.
    """
    if dtype == torch.bfloat16 and fits(weight):
        return NativeLinear(weight, bias)
    rows, columns = weight.codes.shape[0], weight.in_features
    # Other shapes torch's kernels refuse, or, in 8 bits, read past the end of.
    if rows % 16 == 0 and columns % 32 == 0:
        if int4_group(weight.scheme, columns):
            return Int4Linear(weight, bias)
        if fits_int8(weight.scheme, columns):
            return Int8Linear(weight, bias)
    return UnpackedLinear(weight, bias, dtype)


def int4_group(scheme: Scheme, in_features: int) -> int | None:
    """The largest of the 4-bit kernel's groups that the scheme's groups are made of."""
    group = scheme.group_in(in_features)
    fitting = (size for size in INT4_GROUPS if group % size == 0 and in_features % size == 0)
    return next(fitting, None) if scheme.bits <= 4 else None


def fits_int8(scheme: Scheme, in_features: int) -> bool:
    """Whether a row is one group, and every code less its zero fits into 8 bits with a sign."""
    return scheme.group_in(in_features) == in_features and (scheme.symmetric or scheme.bits < 8)


def kernels_of(model: torch.nn.Module) -> str:
    """What runs the quantized layers: "torch int4", or "torch int4 (20 layers), unpacked (4 layers)"."""
    layers = (
        module
        for module in model.modules()
        if isinstance(module, NativeLinear | QuantizedLinear | UnpackedLinear)
    )
    counts = Counter(layer.kernel for layer in layers)
    if len(counts) <= 1:
        return "".join(counts)
    return ", ".join(f"{kernel} ({count} layers)" for kernel, count in counts.most_common())
