"""Arrays kept as they are (biases, batch norms) and tables of shared values: exact, in as few bytes as comes easily."""

from __future__ import annotations

import numpy as np

from netopsy.codec.container import Damage
from netopsy.codec.levels import code_plane, code_uniform
from netopsy.codec.ports import Port, ReadPort, WritePort
from netopsy.codec.shared import ARRAY, LARGEST_INTEGER

DTYPES = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
# Weight of "this byte is d below the largest": floats of one tensor halve in number with each exponent down.
BELOW = np.maximum(1, 4096 >> np.minimum(np.arange(256), 12))
# A reader refuses more, so that the size of a file bounds what it can claim; a writer fills up with zero bytes.
VALUES_A_BYTE = 256


def encode_array(array: ARRAY) -> bytes:
    """`array`, of a type of DTYPES, as a stream: a byte of flags, the largest byte of each modelled plane, then ANS.

    A float is turned by a bit first, so that its exponent fills its first byte (its sign becomes the last bit). Each
    of the byte planes is either modelled, as distances below its largest byte, or flat, 8 bits a byte.
    """
    planes = _planes(array)
    flags, tops, port = 0, bytearray(), WritePort()
    for at, plane in enumerate(planes):
        if _pays(plane):
            flags |= 1 << at
            tops.append(int(plane.max()))
            code_plane(port, plane.max() - plane, BELOW, 512)
        else:
            code_uniform(port, plane.copy(), 256)
    stream = bytes([flags]) + bytes(tops) + port.finish() if array.size else b""
    return pad_stream(stream, array.size)


def decode_array(stream: bytes, dtype: str, count: int) -> ARRAY:
    """The array (count,) that `encode_array` put in `stream`, bit for bit; Damage where it holds no such array."""
    if dtype not in DTYPES:
        raise Damage(f"no arrays of type {dtype!r} are kept")
    width = np.dtype(dtype).itemsize
    if not count:
        if stream:
            raise Damage("an empty array has a stream")
        return np.zeros(0, dtype)
    flags = stream[0] if stream else 0
    modelled = flags.bit_count()
    if len(stream) < 1 + modelled or flags >> width:
        raise Damage("the stream of an array is cut short")
    tops = iter(stream[1 : 1 + modelled])
    port = ReadPort(stream[1 + modelled :].rstrip(b"\0"))
    planes = np.zeros((width, count), np.uint8)
    for at in range(width):
        if flags >> at & 1:
            code_plane(port, planes[at], BELOW, 512)
            top = next(tops)
            if planes[at].max() > top:
                raise Damage("a byte of an array lies below 0")
            planes[at] = top - planes[at]
        else:
            code_uniform(port, planes[at], 256)
    port.finish()
    return _join_planes(planes, np.dtype(dtype))


def pad_stream(stream: bytes, values: int, others: int = 0) -> bytes:
    """`stream` with zero bytes after it up to one byte for 256 values; `others`: bytes that lie elsewhere already."""
    return stream + bytes(max(0, -(-values // VALUES_A_BYTE) - len(stream) - others))


def _pays(plane: ARRAY) -> bool:
    """Whether modelling beats 8 bits a byte, by trying."""
    port = WritePort()
    code_plane(port, plane.max(initial=0) - plane, BELOW, 512)
    return len(port.finish()) + 1 < len(plane)


def _planes(array: ARRAY) -> list[ARRAY]:
    """The bytes of each value, most significant first: one plane (n,) a byte."""
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = flat.view(f"u{flat.itemsize}")
    if flat.dtype.kind == "f":
        top = 8 * flat.itemsize - 1
        bits = bits << bits.dtype.type(1) | bits >> bits.dtype.type(top)
    rows = bits.astype(bits.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, flat.itemsize)
    return [np.ascontiguousarray(rows[:, at]) for at in range(flat.itemsize)]


def _join_planes(planes: ARRAY, dtype: np.dtype) -> ARRAY:
    rows = np.ascontiguousarray(planes.T)
    bits = rows.view(f">u{dtype.itemsize}").reshape(-1).astype(f"u{dtype.itemsize}")
    if dtype.kind == "f":
        top = 8 * dtype.itemsize - 1
        bits = bits >> bits.dtype.type(1) | bits << bits.dtype.type(top)
    if dtype == np.bool_ and (bits > 1).any():
        raise Damage("a bool is neither 0 nor 1")
    return bits.view(dtype)


def encode_table(table: ARRAY) -> bytes:
    """Values of a table, float32 (k,) strictly ascending, as a stream: 4 bytes of the first, then ANS of the steps.

    Floats in ascending order are integers in ascending order once the bits of the negative ones are turned round. A
    step is coded as its bit length (counted), then the bits below the first (flat).
    """
    ordered = _sort_table(table)
    steps = np.diff(ordered)
    port = WritePort()
    _code_steps(port, steps)
    return int(ordered[0]).to_bytes(4, "little") + port.finish()


def decode_table(stream: bytes, entries: int) -> ARRAY:
    """The table, float32 (entries,), that `encode_table` put in `stream`; Damage where it holds no such table."""
    if len(stream) < 4:
        raise Damage("the stream of a table is cut short")
    port = ReadPort(stream[4:].rstrip(b"\0"))
    steps = np.zeros(entries - 1, np.int64)
    _code_steps(port, steps)
    port.finish()
    ordered = np.concatenate([[int.from_bytes(stream[:4], "little")], steps]).cumsum()
    if (steps < 1).any() or ordered[-1] >= 1 << 32:
        raise Damage("the values of a table do not ascend")
    table = _unsort_table(ordered)
    if not np.isfinite(table).all() or (np.diff(table) <= 0).any():
        raise Damage("the values of a table are not finite or do not ascend")
    return table


def encode_integers(table: ARRAY) -> bytes:
    """A table of whole numbers, as tensors in groups have, as a stream: two bytes of the first, then their steps."""
    first, steps = int(table[0]), np.diff(table).astype(np.uint16)
    return first.to_bytes(2, "little", signed=True) + encode_array(steps.view(np.int16))


def decode_integers(stream: bytes, entries: int) -> ARRAY:
    """The table, float32 (entries,), that `encode_integers` put in `stream`; Damage where it holds no such table."""
    if len(stream) < 2:
        raise Damage("the stream of a table is cut short")
    steps = decode_array(stream[2:].rstrip(b"\0") if entries == 1 else stream[2:], "int16", entries - 1)
    steps = steps.view(np.uint16).astype(np.int64)
    table = np.concatenate([[int.from_bytes(stream[:2], "little", signed=True)], steps]).cumsum()
    if (steps < 1).any() or table[-1] >= LARGEST_INTEGER:
        raise Damage("the values of a table do not ascend")
    return table.astype(np.float32)


def _code_steps(port: Port, steps: ARRAY) -> None:
    """Code `steps`, int64 (n,) from 1 to 2**32 - 1, in place."""
    lengths = np.frexp(steps.astype(np.float64))[1].astype(np.int64)
    code_plane(port, lengths, np.ones(33, np.int64), 4)
    rest = np.where(lengths > 0, 1, 0).astype(np.int64) << np.maximum(lengths - 1, 0)
    below = steps - rest
    for low in range(0, 32, 8):
        for size in range(1, 9):
            at = np.flatnonzero(np.minimum(lengths - 1 - low, 8) == size)
            piece = below[at] >> low & (1 << size) - 1
            code_uniform(port, piece, 1 << size)
            rest[at] += piece << low
    steps[:] = rest


def _sort_table(table: ARRAY) -> ARRAY:
    bits = table.view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, (1 << 32) - 1 - bits, bits + (1 << 31))


def _unsort_table(ordered: ARRAY) -> ARRAY:
    bits = np.where(ordered >> 31, ordered - (1 << 31), (1 << 32) - 1 - ordered)
    return bits.astype(np.uint32).view(np.float32)
