"""The compressed file, `.netopsy.safetensors`: shared tensors as coded streams, the others exactly.

Its index has a row a tensor, as JSON under deflate; it is checked before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from netopsy.codec.arrays import DTYPES, decode_array, encode_array
from netopsy.codec.container import Damage, has_container, read_container, write_container
from netopsy.codec.shared import ARRAY, SharedTensor
from netopsy.codec.tensor import CODERS, CodedTensor, EntropyCoder, check_claim, decode_tensor, encode_tensor
from netopsy.errors import SettingsError, WeightsError

LARGEST_INDEX = 1 << 22


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the file.

    kind: a coder for a shared tensor, a type for a kept one. entries: of its table, 0 where it has none. lengths: bytes
    of its positions, codes and table, and of its scales where it is in groups. nonzero: how many of its values are not
    zero. group: how many values of a row share a scale, 0 for none.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    entries: int
    lengths: tuple[int, ...]
    nonzero: int
    group: int = 0

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
            "table": sum(self.lengths[2:]),
            "bytes": sum(self.lengths),
        }


def pack(rows: list[TensorEntry], settings: dict[str, Any], proof: bytes) -> bytes:
    """The index as bytes. proof: the digest of all tensors."""
    lines = [
        [row.name, row.kind, row.shape, row.entries, row.lengths, row.nonzero, *([row.group] if row.group else [])]
        for row in rows
    ]
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
    name, kind, shape, entries, lengths, nonzero, *groups = line
    numbers = [*shape, entries, *lengths, nonzero, *groups]
    form = isinstance(name, str) and isinstance(kind, str) and isinstance(shape, list) and len(groups) < 2
    if not form or len(lengths) != 3 + len(groups):
        raise Damage("a row of its index is of another form")
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        raise Damage("a number of its index is out of range")
    name.encode()  # half a character of UTF-16 is no name
    return TensorEntry(name, kind, tuple(shape), entries, tuple(lengths), nonzero, *groups)


def _check(row: TensorEntry) -> None:
    if row.coded:
        check_claim(row.shape, row.entries, sum(row.lengths))
        if len(row.lengths) > 3 and not row.group:
            raise Damage(f"'{row.name:.60}' has scales and no groups")
    elif row.kind not in DTYPES:
        raise Damage(f"'{row.name:.60}' is of the unknown kind {row.kind!r:.30}")
    else:
        if row.entries or row.lengths[0] or sum(row.lengths[2:]) or row.group:
            raise Damage(f"'{row.name:.60}' is kept and has a table")
        check_claim(row.shape, 1, row.lengths[1])
    if row.nonzero > prod(row.shape):
        raise Damage(f"'{row.name:.60}' keeps more values than it has")


SUFFIX = ".netopsy.safetensors"


@dataclass(frozen=True)
class Compressed:
    """What a compressed file holds: shared tensors and kept arrays by name, metadata (text), settings (plain data)."""

    shared: dict[str, SharedTensor]
    kept: dict[str, ARRAY]
    metadata: dict[str, str]
    settings: dict[str, Any]
    order: tuple[str, ...] = ()

    def state(self) -> dict[str, ARRAY]:
        """Every tensor as an array under its name, in the order in which they were written."""
        names = self.order or (*self.shared, *self.kept)
        return {name: self.shared[name].decode() if name in self.shared else self.kept[name] for name in names}


def write_compressed(
    path: str | Path,
    shared: Mapping[str, SharedTensor],
    kept: Mapping[str, ARRAY],
    *,
    metadata: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    coder: EntropyCoder = "ans",
) -> Path:
    """Write a network's tensors to `path`, which must end in `.netopsy.safetensors`, whole or not at all.

    shared: by name; coded. kept: by name, of a type of DTYPES; stored bit for bit. metadata: text for the header, read
    by `load_network` as from any safetensors file (architecture, preprocessing). settings: plain data that says how the
    file was made. coder: "ans" or "huffman".
    """
    path = Path(path).expanduser()
    if not path.name.endswith(SUFFIX):
        raise SettingsError(f"a compressed file '{path.name}' must end in '{SUFFIX}'.")
    if both := sorted(set(shared) & set(kept)):
        raise SettingsError(f"'{both[0]}' is given both as shared and as kept; a tensor is one of the two.")
    rows: list[TensorEntry] = []
    streams: list[bytes] = []
    proof = hashlib.blake2b(digest_size=16)
    for name, tensor in shared.items():
        coded = encode_tensor(tensor, coder)
        lengths = tuple(map(len, coded.streams))
        rows.append(TensorEntry(name, coder, coded.shape, coded.entries, lengths, tensor.kept, tensor.group))
        streams += coded.streams
        _prove(proof, rows[-1], *_arrays(tensor))
    for name, values in kept.items():
        array = np.asarray(values)
        if array.dtype.name not in DTYPES:
            raise SettingsError(f"'{name}' is {array.dtype}; kept arrays are {', '.join(DTYPES)}.")
        streams.append(encode_array(array))
        nonzero = int(np.count_nonzero(array))
        rows.append(TensorEntry(name, array.dtype.name, array.shape, 0, (0, len(streams[-1]), 0), nonzero))
        _prove(proof, rows[-1], array)
    index = pack(rows, dict(settings or {}), proof.digest())
    write_container(path, metadata or {}, len(index).to_bytes(4, "little") + index + b"".join(streams))
    return path


def read_compressed(path: str | Path) -> Compressed:
    """What `path` holds. Raises WeightsError where it is missing, of another kind, cut or changed anywhere.

    Memory: the file, and what it holds as codes; a file of n bytes that claims more than 256 n values is refused
    before anything is made.
    """
    path = _existing(path)
    with _refusing(path):
        metadata, rows, settings, proof, streams = _open(path)
        shared: dict[str, SharedTensor] = {}
        kept: dict[str, ARRAY] = {}
        state = hashlib.blake2b(digest_size=16)
        for row, (positions, codes, table, *scales) in zip(rows, streams, strict=True):
            if row.coded:
                coder: Any = row.kind
                scale = scales[0] if scales else b""
                coded = CodedTensor(row.shape, row.entries, coder, positions, codes, table, scale, row.group)
                tensor = decode_tensor(coded)
                shared[row.name] = tensor
                nonzero = tensor.kept
                _prove(state, row, *_arrays(tensor))
            else:
                array = decode_array(codes, row.kind, prod(row.shape)).reshape(row.shape)
                kept[row.name] = array
                nonzero = int(np.count_nonzero(array))
                _prove(state, row, array)
            if nonzero != row.nonzero:
                raise Damage(f"'{row.name:.60}' keeps {nonzero} values and its index says {row.nonzero}")
        if state.digest() != proof:
            raise Damage("its tensors are not those that were written")
    return Compressed(shared, kept, metadata, settings, tuple(row.name for row in rows))


def is_compressed(path: str | Path) -> bool:
    """Whether the header of `path` says that it is a compressed file."""
    return has_container(Path(path).expanduser())


def sizes(path: str | Path) -> list[dict[str, Any]]:
    """The account of a file: a row a tensor and one of the rest, whose `bytes` sum to the size of the file.

    name, kind (shared, kept, or header for the last), values, kept (those not zero), entries (of the table; None where
    there is none), bytes_before (4 a value of a shared tensor, else those of its type), positions, codes, table (bytes
    of the streams; scales of groups count with the table), bytes (on disk). Nothing is decoded.
    """
    path = _existing(path)
    with _refusing(path):
        _, rows, _, _, _ = _open(path)
    account: list[dict[str, Any]] = [row.account() for row in rows]
    rest = path.stat().st_size - sum(line["bytes"] for line in account)
    blank = {"values": 0, "kept": 0, "entries": None, "bytes_before": 0, "positions": 0, "codes": 0, "table": 0}
    return [*account, {"name": "header", "kind": "header"} | blank | {"bytes": rest}]


def _open(
    path: Path,
) -> tuple[dict[str, str], list[TensorEntry], dict[str, Any], bytes, list[list[bytes]]]:
    """Metadata, rows, settings, the digest of the tensors, and the three or four streams of each row."""
    metadata, blob = read_container(path)
    start = 4 + int.from_bytes(blob[:4], "little")
    if len(blob) < 4 or start > len(blob):
        raise Damage("its index is longer than the file")
    rows, settings, proof = unpack(blob[4:start], len(blob) - start)
    streams = []
    for row in rows:
        cuts = [start, *(start := start + length for length in row.lengths)]
        streams.append([blob[first:last] for first, last in pairwise(cuts)])
    return metadata, rows, settings, proof, streams


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise WeightsError(f"compressed file '{path}' {what}; give the path of a {SUFFIX} file.")
    return path


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Say of which file a damage is, and what to do next."""
    try:
        yield
    except Damage as damage:
        raise WeightsError(
            f"'{path}' is damaged or not a compressed network ({damage}); fetch it again, or write it again."
        ) from damage
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read ({error}); check the file and its folder.") from error
    except MemoryError as error:
        raise WeightsError(f"'{path}' needs more memory than there is; read it on a larger machine.") from error


def _arrays(tensor: SharedTensor) -> list[ARRAY]:
    return [tensor.table, tensor.codes, *([] if tensor.scales is None else [tensor.scales])]


def _prove(state: Any, row: TensorEntry, *arrays: ARRAY) -> None:
    """Take a tensor into the digest: its name and shape, and what it holds."""
    state.update(json.dumps([row.name, row.shape, row.entries, *([row.group] if row.group else [])]).encode())
    for array in arrays:
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
