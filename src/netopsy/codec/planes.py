"""The default coder: a plane of zeros and a plane of codes, each counted as it goes."""

from __future__ import annotations

import numpy as np

from netopsy.codec.adaptive import code_plane
from netopsy.codec.ports import Port, ReadPort, WritePort
from netopsy.codec.shared import ARRAY, SharedTensor


def encode_planes(shared: SharedTensor) -> tuple[bytes, bytes]:
    """The streams of the positions and of the codes."""
    where, what = WritePort(), WritePort()
    _code(where, what, shared.codes.copy(), len(shared.table), shared.zero)
    return where.finish(), what.finish()


def decode_planes(
    positions: bytes, codes: bytes, shape: tuple[int, ...], entries: int, zero: int | None, plane: ARRAY
) -> None:
    """Fill `plane` (n,) with the codes."""
    where, what = ReadPort(positions), ReadPort(codes.rstrip(b"\0"))
    _code(where, what, plane, entries, zero)
    where.finish()
    what.finish()


def _code(where: Port, what: Port, plane: ARRAY, entries: int, zero: int | None) -> None:
    kept = slice(None)
    if zero is not None:
        mask = (plane != zero).view(np.uint8)
        code_plane(where, mask, np.ones(2, np.int64), 2)
        plane[mask == 0] = zero
        kept = np.flatnonzero(mask)
    symbols = plane[kept].astype(np.int32)
    if zero is not None:
        symbols -= symbols > zero
    code_plane(what, symbols, np.ones(max(1, entries - (zero is not None)), np.int64), 8)
    if zero is not None:
        symbols += symbols >= zero
    plane[kept] = symbols
