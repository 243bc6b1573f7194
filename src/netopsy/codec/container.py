"""A safetensors file that holds one blob of bytes and metadata, written and read strictly; `Damage` says what is wrong.

    8 bytes   length of the header, little-endian
    header    JSON: {"__metadata__": {...}, "netopsy": {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}} and spaces
    n bytes   the blob

The header has exactly one form (no white space inside, keys in order, spaces up to a multiple of 8), and a digest in
the metadata covers the other metadata and the blob: whatever is changed in the file shows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netopsy.errors import WeightsError
from netopsy.files import atomic_write


class Damage(WeightsError):
    """A stream that no writer makes: the message is the reason alone."""


ENTRY = "netopsy"
FORMAT, DIGEST = "netopsy_format", "netopsy_digest"
VERSION = "compressed/1"
LARGEST_HEADER = 1 << 20


def digest(*parts: bytes) -> str:
    """BLAKE2b of the parts, 16 bytes in hexadecimal, each part with its length."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def write_container(path: Path, metadata: Mapping[str, str], blob: bytes) -> None:
    """Write the file whole or not at all."""
    header_fields = {str(key): str(value) for key, value in metadata.items() if key not in (FORMAT, DIGEST)}
    header_fields[FORMAT] = VERSION
    header_fields[DIGEST] = digest(_json(header_fields), blob)
    header = _header(header_fields, len(blob))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part, part.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WeightsError(
            f"'{path}' cannot be written ({error}); give a path in a folder that you may write to."
        ) from error


def read_container(path: Path) -> tuple[dict[str, str], bytes]:
    """The metadata, less what the container itself put there, and the blob. Damage where anything is not as written."""
    size = path.stat().st_size
    with path.open("rb") as file:
        metadata, length = _read_header(file, size)
        blob = file.read(length + 1)
    if len(blob) != length:
        raise Damage(f"{length} bytes of streams are announced and {len(blob)} are there")
    proof = metadata.pop(DIGEST, "")
    if digest(_json(metadata), blob) != proof:
        raise Damage("its content is not what its digest says")
    del metadata[FORMAT]
    return metadata, blob


def has_container(path: Path) -> bool:
    """Whether the header of `path` says that it is such a file; False too where there is no file or no header."""
    try:
        with path.open("rb") as file:
            return FORMAT in _parse(file, path.stat().st_size)[0]
    except (OSError, Damage):
        return False


def _read_header(file: Any, size: int) -> tuple[dict[str, str], int]:
    metadata, raw = _parse(file, size)
    if metadata.get(FORMAT) != VERSION:
        raise Damage(f"its format is {metadata.get(FORMAT, 'not named')!r:.60}, and this version reads {VERSION!r}")
    length = size - 8 - len(raw)
    if raw != _header(metadata, length):
        raise Damage("its header does not describe its content")
    return metadata, length


def _parse(file: Any, size: int) -> tuple[dict[str, str], bytes]:
    """The metadata of the header, and the header as it stands."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LARGEST_HEADER):
        raise Damage(f"a header of {length} bytes is announced in a file of {size}")
    raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = header["__metadata__"]
        text = all(isinstance(value, str) for value in metadata.values())
        "".join([*metadata, *metadata.values()] if text else []).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damage("its header cannot be read") from error
    if not text:
        raise Damage("its metadata holds something other than text")
    return metadata, raw


def _header(metadata: Mapping[str, str], length: int) -> bytes:
    entry = {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}
    text = _json({"__metadata__": dict(metadata), ENTRY: entry})
    return text + b" " * (-len(text) % 8)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
