"""Codes in the order in which the kernels read them.

Rows are cut into blocks of 16. Of a block, the kernels take 64 bytes at a time: 32 bits of each row, which
are 8 codes of 4 bits, or 4 of 8. A look-up takes 4 bits of every 16, that is of two neighboring columns; so
the codes of even columns are in the lower 16 bits of a row's 32, those of odd ones in the upper.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

BLOCK = 16
# Rows of the inputs are padded with zeros to whole vectors.
VECTOR = 32


def packed_bits(bits: int) -> int:
    """Bits that a code takes in the kernels' order."""
    return 4 if bits <= 4 else 8


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8, shape (blocks, chunks, 64).

    Args:
        codes: uint8, shape (rows, columns).
    """
    chunk = 32 // packed_bits(bits)
    rows, columns = codes.shape
    codes = pad(codes, (0, -columns % chunk, 0, -rows % BLOCK))
    chunks = codes.shape[1] // chunk
    if bits <= 4:
        parts = codes.view(-1, chunks, 2, 2, 2)
        pairs = parts[..., 0, :] | parts[..., 1, :] << 4
    else:
        # A copy: a file's memory need not begin where 32 bits may.
        pairs = codes.clone().view(-1, chunks, 2, 2)
    # As 32 bits each, since bytes are slow to move: the two in the middle change places.
    words = pairs.flatten(1).view(torch.int32)
    words = words & ~0xFFFF00 | words >> 8 & 0xFF00 | (words & 0xFF00) << 8
    return words.view(-1, BLOCK, chunks).transpose(1, 2).contiguous().view(torch.uint8)


def pack_groups(table: torch.Tensor) -> torch.Tensor:
    """Scales or zeros, shape (rows, groups), as (blocks, groups, 16)."""
    table = pad(table, (0, 0, 0, -len(table) % BLOCK))
    return table.view(-1, BLOCK, table.shape[1]).transpose(1, 2).contiguous()
