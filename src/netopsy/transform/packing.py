"""Codes of a few bits each, side by side in bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

UINT8 = np.ndarray[Any, np.dtype[np.uint8]]
CODES = np.ndarray[Any, np.dtype[Any]]

AT_ONCE = 1 << 23
"""Bits that are held one to a byte at a time."""


def pack(codes: CODES, bits: int) -> UINT8:
    """Codes (n, q), unsigned, of `bits` bits each (0..16) as (n, ceil(q bits / 8)) bytes, greatest bit first.

    What is left of a row's last byte is zero.
    """
    n, q = codes.shape
    if bits == 0:
        return np.zeros((n, 0), np.uint8)
    if bits == 8:
        return codes.astype(np.uint8)
    out = np.empty((n, (q * bits + 7) // 8), np.uint8)
    for rows in _blocks(n, q):
        wide = codes[rows].astype(">u2" if bits > 8 else "u1")
        single = np.unpackbits(wide.view(np.uint8).reshape(len(wide), q, wide.itemsize), axis=2)[:, :, -bits:]
        out[rows] = np.packbits(single.reshape(len(wide), q * bits), axis=1)
    return out


def unpack(data: UINT8, q: int, bits: int) -> CODES:
    """The codes (n, q) that `pack` put into (n, bytes): uint8 up to 8 bits, uint16 above."""
    n = len(data)
    if bits == 0:
        return np.zeros((n, q), np.uint8)
    if bits == 8:
        return data
    width = 16 if bits > 8 else 8
    out = np.empty((n, q), np.uint16 if bits > 8 else np.uint8)
    for rows in _blocks(n, q):
        single = np.unpackbits(data[rows], axis=1, count=q * bits).reshape(-1, q, bits)
        padded = np.zeros((len(single), q, width), np.uint8)
        padded[:, :, width - bits :] = single
        packed = np.packbits(padded, axis=2)
        out[rows] = packed.view(">u2")[:, :, 0] if bits > 8 else packed[:, :, 0]
    return out


def _blocks(n: int, q: int) -> list[slice]:
    rows = max(1, AT_ONCE // max(16 * q, 1))
    return [slice(start, start + rows) for start in range(0, n, rows)]
