"""The index of a compressed file: a row a tensor, as JSON under deflate; checked before anything is made of it."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from netopsy.codec.arrays import DTYPES
from netopsy.codec.container import Damage
from netopsy.codec.tensor import CODERS, check_claim
from netopsy.errors import SettingsError

LARGEST_INDEX = 1 << 22


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the file.

    kind: a coder for a shared tensor, a type for a kept one. entries: of its table, 0 where it has none. lengths: bytes
    of its positions, codes and table. nonzero: how many of its values are not zero.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    entries: int
    lengths: tuple[int, int, int]
    nonzero: int

    @property
    def coded(self) -> bool:
        """Whether it is a shared tensor."""
        return self.kind in CODERS

    def account(self) -> dict[str, Any]:
        """Its row of `sizes`."""
        count = prod(self.shape)
        return {
            "name": self.name,
            "kind": "shared" if self.coded else "kept",
            "values": count,
            "kept": self.nonzero,
            "entries": self.entries or None,
            "bytes_before": count * (4 if self.coded else np.dtype(self.kind).itemsize),
            "positions": self.lengths[0],
            "codes": self.lengths[1],
            "table": self.lengths[2],
            "bytes": sum(self.lengths),
        }


def pack(rows: list[TensorEntry], settings: dict[str, Any], proof: bytes) -> bytes:
    """The index as bytes. proof: the digest of all tensors."""
    lines = [[row.name, row.kind, row.shape, row.entries, row.lengths, row.nonzero] for row in rows]
    try:
        text = json.dumps([settings, lines], separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the settings of a compressed file must be plain data for JSON ({error}).") from error
    press = zlib.compressobj(9, wbits=-15)
    return proof + press.compress(text.encode()) + press.flush()


def unpack(index: bytes, streams: int) -> tuple[list[TensorEntry], dict[str, Any], bytes]:
    """Rows, settings and proof of `index`; `streams`: the bytes that follow it. Damage where it says what cannot be."""
    press = zlib.decompressobj(wbits=-15)
    try:
        text = press.decompress(index[16:], LARGEST_INDEX)
        if not press.eof or press.unused_data:
            raise Damage("its index is too long, or cut short")
        settings, lines = json.loads(text)
        rows = [_row(line) for line in lines]
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise Damage("its index cannot be read") from error
    if not isinstance(settings, dict):
        raise Damage("its settings are no table")
    if len({row.name for row in rows}) < len(rows):
        raise Damage("its index names a tensor twice")
    if sum(sum(row.lengths) for row in rows) != streams:
        raise Damage("its index does not fit the bytes that follow")
    for row in rows:
        _check(row)
    return rows, settings, index[:16]


def _row(line: Any) -> TensorEntry:
    name, kind, shape, entries, lengths, nonzero = line
    numbers = [*shape, entries, *lengths, nonzero]
    if not (isinstance(name, str) and isinstance(kind, str) and isinstance(shape, list) and len(lengths) == 3):
        raise Damage("a row of its index is of another form")
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        raise Damage("a number of its index is out of range")
    name.encode()  # half a character of UTF-16 is no name
    return TensorEntry(name, kind, tuple(shape), entries, tuple(lengths), nonzero)


def _check(row: TensorEntry) -> None:
    if row.coded:
        check_claim(row.shape, row.entries, sum(row.lengths))
    elif row.kind not in DTYPES:
        raise Damage(f"'{row.name:.60}' is of the unknown kind {row.kind!r:.30}")
    else:
        if row.entries or row.lengths[0] or row.lengths[2]:
            raise Damage(f"'{row.name:.60}' is kept and has a table")
        check_claim(row.shape, 1, row.lengths[1])
    if row.nonzero > prod(row.shape):
        raise Damage(f"'{row.name:.60}' keeps more values than it has")
