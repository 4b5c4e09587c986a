"""Weights as small whole numbers, and how those are packed into bytes.

A matrix of shape (out, in) is cut along its rows into groups; a weight is scale * (code - zero), with a scale
and a zero for each group and a code from 0 to 2^bits - 1 for each weight. In a symmetric scheme every zero is
2^(bits - 1) and is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad


@dataclass(frozen=True)
class Scheme:
    """A format of codes.

    Attributes:
        bits: of a code, 1 to 8.
        group_size: weights that share a scale; -1: a whole row. A row's last group may be shorter.
    """

    bits: int
    group_size: int
    symmetric: bool

    @property
    def symmetric_zero_point(self) -> int:
        """The zero point of every group in a symmetric scheme."""
        return int(2 ** (self.bits - 1))

    @property
    def scale_dtype(self) -> torch.dtype:
        """bf16 is off by 0.2 %: little beside a step of 4 bits, a quarter of one of 8 at a range's ends."""
        return torch.bfloat16 if self.bits <= 4 else torch.float32

    def group_in(self, in_features: int) -> int:
        """Weights of a full group in rows of that length."""
        return in_features if self.group_size == -1 else min(self.group_size, in_features)

    def groups_in(self, in_features: int) -> int:
        """Groups of a row."""
        return -(-in_features // self.group_in(in_features))

    def row_bytes(self, in_features: int) -> int:
        """A row's codes, scales and zero points, packed."""
        groups = self.groups_in(in_features)
        zero_points = 0 if self.symmetric else packed_columns(groups, self.bits)
        return packed_columns(in_features, self.bits) + zero_points + groups * self.scale_dtype.itemsize


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix of a linear layer.

    Attributes:
        in_features: length of a row.
        codes: uint8, shape (out, bytes): packed by `pack_bits`.
        scales: scheme.scale_dtype, shape (out, groups).
        zero_points: uint8, shape (out, bytes): packed too; None in a symmetric scheme.
    """

    scheme: Scheme
    in_features: int
    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None

    @classmethod
    def from_codes(
        cls, scheme: Scheme, codes: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor | None
    ) -> QuantizedWeight:
        """Packs them.

        Args:
            codes: whole numbers in any format, shape (out, in), from 0 to 2^bits - 1.
            scales: shape (out, groups).
            zero_points: like codes, shape (out, groups); None in a symmetric scheme.
        """
        return cls(
            scheme,
            codes.shape[1],
            pack_bits(codes.to(torch.uint8), scheme.bits),
            scales.to(scheme.scale_dtype),
            None if zero_points is None else pack_bits(zero_points.to(torch.uint8), scheme.bits),
        )

    def unpacked_codes(self) -> torch.Tensor:
        """uint8, shape (out, in)."""
        return unpack_bits(self.codes, self.scheme.bits, self.in_features)

    def unpacked_zero_points(self) -> torch.Tensor:
        """uint8, shape (out, groups)."""
        if self.zero_points is None:
            return torch.full_like(self.scales, self.scheme.symmetric_zero_point, dtype=torch.uint8)
        return unpack_bits(self.zero_points, self.scheme.bits, self.scales.shape[1])

    def rows(self, first: int, last: int) -> QuantizedWeight:
        """Rows from `first` to before `last`, in the same memory."""
        zero_points = None if self.zero_points is None else self.zero_points[first:last]
        return QuantizedWeight(
            self.scheme, self.in_features, self.codes[first:last], self.scales[first:last], zero_points
        )

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights, shape (out, in), rounded to `dtype` once."""
        group = self.scheme.group_in(self.in_features)
        precise = torch.promote_types(self.scales.dtype, dtype)
        # Of small numbers first, since that is fastest; the differences are exact in bf16 too.
        signed = torch.int8 if self.scheme.bits < 8 else torch.int16
        rows, groups = self.scales.shape
        codes = pad(self.unpacked_codes(), (0, groups * group - self.in_features)).view(rows, groups, group)
        steps = codes.to(signed) - self.unpacked_zero_points().to(signed).unsqueeze(2)
        weights = steps.to(precise).mul_(self.scales.to(precise).unsqueeze(2)).view(rows, groups * group)
        return weights[:, : self.in_features].to(dtype)


@torch.no_grad()
def rounded_to_8_bits(weight: torch.Tensor, group: int = 128) -> QuantizedWeight:
    """The nearest codes of 8 bits, in groups around zero.

    Args:
        weight: shape (out, in).
    """
    scheme = Scheme(8, group, symmetric=True)
    rows, columns = weight.shape
    groups = scheme.groups_in(columns)
    codes, scales = torch.empty(rows, columns, dtype=torch.uint8), torch.empty(rows, groups)
    # A few rows at a time: a large vocabulary's head in fp32 would take more memory than the model.
    for first in range(0, rows, 4096):
        some = slice(first, first + 4096)
        padded = pad(weight[some].float(), (0, groups * scheme.group_in(columns) - columns))
        parts = padded.view(len(padded), groups, -1)
        steps = (parts.abs().amax(2, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        codes[some] = (
            (parts.div(steps).round_() + scheme.symmetric_zero_point)
            .view_as(padded)[:, :columns]
            .to(torch.uint8)
        )
        scales[some] = steps.squeeze(2)
    return QuantizedWeight.from_codes(scheme, codes, scales, None)


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of `bits` bits, uint8, shape (rows, columns), in about columns * bits / 8 bytes a row.

    A code is cut into parts of 4, 2 and 1 bits, which divide a byte: 5 bits into 4 and 1. For each width a
    row's codes are laid in as many stretches as parts fit into a byte, one stretch above the other.
    """
    packed, done = [], 0
    for width in _parts(bits):
        stretches = 8 // width
        part = (codes >> done) & (2**width - 1)
        part = pad(part, (0, -codes.shape[1] % stretches)).view(codes.shape[0], stretches, -1)
        packed.append(sum((part[:, n] << (n * width) for n in range(1, stretches)), start=part[:, 0]))
        done += width
    return torch.cat(packed, dim=1)


def packed_columns(columns: int, bits: int) -> int:
    """Bytes of a row that is packed."""
    return sum(-(-columns // (8 // width)) for width in _parts(bits))


def unpack_bits(packed: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """The inverse of `pack_bits`: uint8, shape (rows, columns)."""
    codes, start, done = torch.zeros((), dtype=torch.uint8), 0, 0
    for width in _parts(bits):
        stretches = 8 // width
        end = start + -(-columns // stretches)
        part = packed[:, start:end]
        if width < 8:
            mask = 2**width - 1
            part = torch.cat([(part >> (number * width)) & mask for number in range(stretches)], dim=1)
        part = part[:, :columns]
        codes = part << done | codes if done else part
        start, done = end, done + width
    return codes


def _parts(bits: int) -> list[int]:
    return [width for width in (8, 4, 2, 1) if bits & width]
