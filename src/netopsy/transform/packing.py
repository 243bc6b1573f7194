"""Codes of a few bits each, side by side in bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

UINT8 = np.ndarray[Any, np.dtype[np.uint8]]
CODES = np.ndarray[Any, np.dtype[Any]]


def pack(codes: CODES, bits: int) -> UINT8:
    """Codes (n, q), unsigned, of `bits` bits each (0..16) as (n, ceil(q bits / 8)) bytes, greatest bit first.

    What is left of a row's last byte is zero.
    """
    n, q = codes.shape
    if bits == 0:
        return np.zeros((n, 0), np.uint8)
    if bits == 8:
        return codes.astype(np.uint8)
    wide = codes.astype(">u2" if bits > 8 else "u1")
    single = np.unpackbits(wide.view(np.uint8).reshape(n, q, wide.itemsize), axis=2)[:, :, -bits:]
    return np.packbits(single.reshape(n, q * bits), axis=1)


def unpack(data: UINT8, q: int, bits: int) -> CODES:
    """The codes (n, q) that `pack` put into (n, bytes): uint8 up to 8 bits, uint16 above."""
    n = len(data)
    if bits == 0:
        return np.zeros((n, q), np.uint8)
    if bits == 8:
        return data
    width = 16 if bits > 8 else 8
    single = np.zeros((n, q, width), np.uint8)
    single[:, :, width - bits :] = np.unpackbits(data, axis=1, count=q * bits).reshape(n, q, bits)
    packed = np.packbits(single, axis=2)
    return (packed.view(">u2").astype(np.uint16) if bits > 8 else packed)[:, :, 0]
