"""Matrices for the kernels: what a linear layer holds, as C sees it, and the product with it."""

from __future__ import annotations

import ctypes

import torch
from torch.nn.functional import pad

from llm_finetune.kernels.inference.library import Matrix, library
from llm_finetune.kernels.inference.packing import VECTOR, pack_codes, pack_groups, packed_bits
from llm_finetune.quantization.packed_weights import QuantizedWeight


def fits(weight: QuantizedWeight) -> bool:
    """Whether the kernels are there and take this weight: groups made of 8, or one group a row."""
    return library() is not None and (
        weight.scheme.groups_in(weight.in_features) == 1 or weight.scheme.group_size % 8 == 0
    )


class NativeLinear(torch.nn.Module):
    """A linear layer over codes of any number of bits, by native kernels. It cannot be trained."""

    kernel = "native"
    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        scheme = weight.scheme
        self.out_features, self.in_features = weight.codes.shape[0], weight.in_features
        self.group = -(-scheme.group_in(self.in_features) // 8) * 8
        self.bits, self.symmetric_zero_point = packed_bits(scheme.bits), scheme.symmetric_zero_point
        self.register_buffer("codes", pack_codes(weight.unpacked_codes(), scheme.bits))
        self.register_buffer("scales", pack_groups(weight.scales))
        self.register_buffer(
            "zero_points", None if scheme.symmetric else pack_groups(weight.unpacked_zero_points())
        )
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def matrix(self) -> Matrix:
        """As C sees it; it holds only as long as this layer does."""
        return Matrix(
            *(self.bits, self.out_features, self.in_features, self.group, self.symmetric_zero_point),
            *map(pointer, (self.codes, self.scales, self.zero_points, self.bias)),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (..., in) to (..., out), in the inputs' format; inputs are rounded to bf16."""
        kernels = library()
        assert kernels is not None
        rows = padded(inputs.reshape(-1, self.in_features))
        sums = torch.empty(len(rows), self.scales.shape[1])
        outputs = torch.empty(len(rows), self.out_features)
        kernels.multiply(
            *(ctypes.byref(self.matrix()), rows.data_ptr(), len(rows), sums.data_ptr(), outputs.data_ptr()),
            torch.get_num_threads(),
        )
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}"


def plain_matrix(linear: torch.nn.Linear, bias: torch.Tensor | None) -> Matrix:
    """A plain layer's weights in bf16, where they lie.

    Args:
        bias: the layer's, in fp32; the caller must hold a reference to it.
    """
    sizes = (16, linear.out_features, linear.in_features, 0, 0)
    return Matrix(*sizes, *map(pointer, (linear.weight, None, None, bias)))


def padded(rows: torch.Tensor) -> torch.Tensor:
    """In bf16 with zeros up to whole vectors, which are read beyond the last column."""
    rows = rows.to(torch.bfloat16)
    return pad(rows, (0, -rows.shape[1] % VECTOR)).contiguous()


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Where a contiguous tensor's memory is."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()
