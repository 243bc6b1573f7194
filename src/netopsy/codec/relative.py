"""Han's coder: gaps between the weights that are kept, fillers where a gap is too long, Huffman over gaps and codes.

Han et al., "Deep Compression" (ICLR 2016), Section 2 (relative indices, Figure 2) and Section 4 (Huffman coding).
"""

from __future__ import annotations

import numpy as np

from netopsy.codec.container import Damage
from netopsy.codec.huffman import decode_symbols, encode_symbols
from netopsy.codec.shared import ARRAY, SharedTensor
from netopsy.errors import SettingsError

WIDTHS = (3, 4, 5, 8)
"""Bits of a gap that Han et al. use."""


def relative(shared: SharedTensor, width: int) -> tuple[ARRAY, ARRAY]:
    """Gaps and codes of the entries that are stored, ints (e,): the kept weights and, in between, fillers.

    width: bits of a gap. A gap g says that g zeros lie between an entry and the one before it; where more than
    2 ** width - 1 do, the last that a gap can reach is stored itself, as a filler of the value 0.
    """
    if shared.zero is None:
        raise SettingsError("a tensor without zeros has no gaps.")
    if not 1 <= width <= 16:
        raise SettingsError(f"a gap of {width} bits; give 1 to 16 (Han: 5 for linear layers, 8 for convolutions).")
    reach = 1 << width
    kept = np.flatnonzero(shared.codes != shared.zero)
    steps = np.diff(kept, prepend=-1)
    fillers = (steps - 1) // reach
    ends = (fillers + 1).cumsum()
    gaps = np.full(int(ends[-1]) if len(ends) else 0, reach - 1, np.int64)
    codes = np.full(len(gaps), shared.zero, np.int64)
    gaps[ends - 1] = steps - 1 - fillers * reach
    codes[ends - 1] = shared.codes[kept]
    return gaps, codes


def encode_relative(shared: SharedTensor, width: int | None = None) -> tuple[bytes, bytes]:
    """The streams of the positions and of the codes.

    width: bits of a gap; None for the best of `WIDTHS` and of no gaps at all, where zero is a code like any other.
    """
    entries = len(shared.table)
    tries = []
    if width is None or shared.zero is None:
        tries.append((b"", encode_symbols(shared.codes, entries)))
    if shared.zero is not None:
        for bits in WIDTHS if width is None else (width,):
            gaps, codes = relative(shared, bits)
            head = bytes([bits]) + len(gaps).to_bytes(5, "little")
            tries.append((head + encode_symbols(gaps, 1 << bits), encode_symbols(codes, entries)))
    return min(tries, key=lambda streams: len(streams[0]) + len(streams[1]))


def decode_relative(positions: bytes, codes: bytes, entries: int, zero: int | None, out: ARRAY) -> None:
    """Fill `out` (n,) with the codes. Damage where the streams hold no such tensor."""
    if not positions:
        found = decode_symbols(codes, len(out), entries)
        if len(found) and int(found.max()) >= entries:
            raise Damage("a code is beyond its table")
        out[:] = found
        return
    bits, count = positions[0], int.from_bytes(positions[1:6], "little")
    if zero is None or len(positions) < 6 or not 1 <= bits <= 16 or count > len(out):
        raise Damage("the positions of a tensor cannot be")
    gaps = decode_symbols(positions[6:], count, 1 << bits)
    at = (gaps.astype(np.int64) + 1).cumsum() - 1
    if count and at[-1] >= len(out):
        raise Damage("the positions of a tensor lie outside it")
    out[:] = zero
    out[at] = decode_symbols(codes, count, entries)
