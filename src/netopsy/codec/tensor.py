"""One shared tensor as three streams: where it is not zero, which entries stand there, and the table of the entries.

One in groups has a fourth, of their scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np

from netopsy.codec.arrays import (
    VALUES_A_BYTE,
    decode_array,
    decode_integers,
    decode_table,
    encode_array,
    encode_integers,
    encode_table,
    pad_stream,
)
from netopsy.codec.container import Damage
from netopsy.codec.planes import decode_planes, encode_planes
from netopsy.codec.shared import ARRAY, LARGEST_TABLE, SharedTensor, scales_shape
from netopsy.errors import SettingsError

EntropyCoder = Literal["ans", "huffman"]
CODERS = get_args(EntropyCoder)


@dataclass(frozen=True)
class CodedTensor:
    """A shared tensor as streams; `len` of each is its account in bytes.

    positions: where the values are not zero; empty where zero is coded as one of the codes. codes: the entries of the
    values. table: the entries themselves, and zero bytes where a tensor is all but
    empty: a reader takes no more than 256 weights a byte. scales: of groups of `group` values of a row; empty and 0
    where there are none.
    """

    shape: tuple[int, ...]
    entries: int
    coder: EntropyCoder
    positions: bytes
    codes: bytes
    table: bytes
    scales: bytes = b""
    group: int = 0

    @property
    def streams(self) -> tuple[bytes, ...]:
        """Positions, codes and table, and the scales of a tensor in groups."""
        return (self.positions, self.codes, self.table, *([self.scales] if self.group else []))

    @property
    def size(self) -> int:
        """Bytes of the streams together."""
        return sum(map(len, self.streams))


def encode_tensor(shared: SharedTensor, coder: EntropyCoder = "ans") -> CodedTensor:
    """`shared` as streams, from which `decode_tensor` makes it again exactly.

    coder: "ans" (contexts, counted as it goes) or "huffman" (gaps and codes as in Han et al., ICLR 2016).
    """
    if coder not in CODERS:
        raise SettingsError(f"no coder '{coder}'; give one of {', '.join(CODERS)}.")
    table = encode_table(shared.table) if shared.scales is None else encode_integers(shared.table)
    if coder == "ans":
        positions, codes = encode_planes(shared)
    else:
        from netopsy.codec.huffman import encode_relative

        positions, codes = encode_relative(shared)
    table = pad_stream(table, len(shared.codes), len(positions) + len(codes))
    scales = b"" if shared.scales is None else encode_array(shared.scales)
    return CodedTensor(shared.shape, len(shared.table), coder, positions, codes, table, scales, shared.group)


def decode_tensor(coded: CodedTensor) -> SharedTensor:
    """The tensor of `coded`, exactly. Raises Damage (a WeightsError) where the streams do not hold one.

    Memory: the codes (1 or 2 bytes a weight), a mask and a megabyte or so; the size is checked first.
    """
    check_claim(coded.shape, coded.entries, coded.size)
    if coded.coder not in CODERS:
        raise Damage(f"its coder '{coded.coder}' is none of {', '.join(CODERS)}")
    scales: ARRAY | None = None
    if coded.group:
        if coded.group > max(1, prod(coded.shape)):
            raise Damage(f"groups of {coded.group} values are claimed")
        counts = scales_shape(coded.shape, coded.group)
        check_claim(counts, 1, len(coded.scales))
        scales = decode_array(coded.scales, "float32", prod(counts)).reshape(counts)
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise Damage("a scale is below 0 or not finite")
    read = decode_integers if coded.group else decode_table
    table = read(coded.table, coded.entries)
    codes = np.zeros(prod(coded.shape), np.uint8 if coded.entries <= 256 else np.uint16)
    at = int(np.searchsorted(table, np.float32(0)))
    zero = at if at < len(table) and table[at] == 0 else None
    if coded.coder == "ans":
        decode_planes(coded.positions, coded.codes, coded.shape, table, zero, codes)
    else:
        from netopsy.codec.huffman import decode_relative

        decode_relative(coded.positions, coded.codes, coded.entries, zero, codes)
    return SharedTensor(coded.shape, table, codes, coded.group, scales)


def check_claim(shape: tuple[int, ...], entries: int, size: int) -> None:
    """Damage where `size` bytes of streams cannot hold what is claimed: 256 weights a byte, 4096 entries."""
    if not 1 <= entries <= LARGEST_TABLE:
        raise Damage(f"a table of {entries} entries; 1 to {LARGEST_TABLE} are allowed")
    spread = prod(max(1, side) for side in shape)
    if len(shape) > 32 or min(shape, default=0) < 0 or spread > 1 << 48 or prod(shape) > VALUES_A_BYTE * size:
        raise Damage(f"{'x'.join(map(str, shape[:8]))} weights are claimed of {size} bytes")
