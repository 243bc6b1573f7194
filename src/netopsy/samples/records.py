"""Stores of samples that are no pictures: arrays by name, and text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from numpy.typing import NDArray

from netopsy.errors import NetopsyWarning, SamplesError, nearest
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import MASK, Arrays, Input, Kind, Signature, empty_arrays
from netopsy.samples.pixels import draw_values, title_values

_TYPES = {"i": torch.int64, "u": torch.int64, "b": torch.bool}


class Records(Protocol):
    """Samples by row, without their labels.

    kind: of what a sample is: `image`, `tokens`, `series`, `vector` or `array`.
    workers: how many threads may read at once; None leaves it to the machine.
    """

    kind: Kind
    workers: int | None

    def __len__(self) -> int: ...

    def read(self, row: int) -> Any:
        """One sample as it came."""

    def title(self, row: int) -> str:
        """A few words on one sample, in one line; nothing where its number says all."""

    def thumbnail(self, row: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """A small picture of one sample; None of a kind that words show better."""

    def cheap(self, preprocessing: Preprocessing | Signature) -> bool:
        """Whether a batch is copied and no more, so that one thread fills it at once."""

    def buffers(self, count: int, preprocessing: Preprocessing | Signature) -> Arrays:
        """Arrays for `count` samples by the names of the inputs, and `MASK` where samples differ in length."""

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        """Write the network's inputs for the samples `rows` into `out`."""

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        """Bytes whose hash tells these samples, in this order, from any others."""


class ArrayRecords:
    """Arrays by name, each (n, ...): what a network's inputs of these names take, as it is.

    lengths: int64 (n,), how many places along the last axis of each sample are its own; None where all are. Of an
        encoder and a decoder a mapping from the first field of each to its lengths.
    scale: (low, high) of the first field's values that become 0 and 1; None leaves them as they are.
    rate: of a series, in samples a second, where it is known. describe: a few words on one row.
    """

    workers: int | None = None

    def __init__(
        self,
        fields: Mapping[str, NDArray[Any]],
        kind: Kind = "array",
        lengths: Int64[np.ndarray, " n"] | Mapping[str, Int64[np.ndarray, " n"]] | None = None,
        name: str = "arrays",
        *,
        scale: tuple[float, float] | None = None,
        rate: int | None = None,
        describe: Callable[[int], str] | None = None,
    ) -> None:
        counts = {field: len(values) for field, values in fields.items()}
        if not counts or len(set(counts.values())) > 1:
            listed = ", ".join(f"{field} {count:,}" for field, count in counts.items())
            raise SamplesError(f"the fields of {name} must have one row a sample; they have {listed or 'no rows'}.")
        for field, values in fields.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise SamplesError(f"{field} of {name} is NaN or infinite in row {row}; mend or leave out such rows.")
            if values.dtype.kind not in "fiub":
                raise SamplesError(f"{field} of {name} is {values.dtype}; give numbers.")
        self.by_sequence = dict(lengths) if isinstance(lengths, Mapping) else {}
        self.lengths = next(iter(self.by_sequence.values())) if isinstance(lengths, Mapping) else lengths
        self.fields, self.kind, self.name = dict(fields), kind, name
        self.scale, self.rate, self.describe = scale, rate, describe
        self.notes: list[str] = []
        self.coding: Any = None  # of a table: which columns became which inputs

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def title(self, row: int) -> str:
        """What `describe` says, how long a series is, else the first values."""
        if self.describe is not None:
            return self.describe(row)
        values = next(iter(self.fields.values()))[row]
        return title_values(values, self.kind, None if self.lengths is None else int(self.lengths[row]), self.rate)

    def thumbnail(self, row: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """The outline of a series, the middle slice of an array."""
        values = next(iter(self.fields.values()))[row]
        if self.lengths is not None:
            values = values[..., : max(1, int(self.lengths[row]))]
        return draw_values(values, self.kind)

    def prepare(self, rows: Int64[np.ndarray, " n"], preprocessing: Preprocessing | Signature) -> None:
        """Say once of how many of these samples the end is cut off."""
        length = preprocessing.signature.length
        if length is None:
            return
        longest = max(array.shape[-1] if array.ndim > 1 else 1 for array in self.fields.values())
        every = np.full(len(rows), longest) if self.lengths is None else self.lengths[rows]
        note_cut(self, int((every > length).sum()), len(rows), length)
        masks = [entry.name for entry in preprocessing.signature.inputs if entry.kind == "mask"]
        if self.kind == "tokens" and masks and self.lengths is None and not set(masks) & set(self.fields):
            padded = int((next(iter(self.fields.values()))[rows, -2:] == 0).all(1).sum())
            what = f"{padded:,} of {len(rows):,} samples end in zeros as padded ones do, and have no {masks[0]}"
            note_once(self, f"{what}; all their places count" if padded else "")

    def read(self, row: int) -> dict[str, NDArray[Any]] | NDArray[Any]:
        """The sample's values by field; of a single field its values alone."""
        values = {field: array[row] for field, array in self.fields.items()}
        return values if len(values) > 1 else next(iter(values.values()))

    def cheap(self, preprocessing: Preprocessing | Signature) -> bool:
        return True

    def signature(self) -> Signature:
        """The inputs of a network that takes each field as it is."""
        inputs = []
        for field, array in self.fields.items():
            shape = array.shape[1:]
            axis = None if self.lengths is None else len(shape) - 1
            kind: Kind = "mask" if array.dtype.kind in "biu" and field.endswith("mask") else self.kind
            dtype = torch.float32 if self._scaled(field) else _TYPES.get(array.dtype.kind, torch.float32)
            inputs.append(Input(field, shape, dtype, kind, axis))
        return Signature(tuple(inputs))

    def buffers(self, count: int, preprocessing: Preprocessing | Signature) -> Arrays:
        signature = preprocessing.signature
        arrays = empty_arrays(signature, count)
        self._check(signature)
        return arrays

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        signature = preprocessing.signature
        for sequence, length in signature.lengths.items():
            out[MASK + sequence][...] = _real(self._lengths(rows, length, sequence), length)
        for name, entry in zip(signature.names, signature.inputs, strict=True):
            target = out[name]
            if entry.kind == "mask" and entry.name not in self.fields:
                target[...] = _real(self._lengths(rows, entry.length, entry.sequence), entry.length)
                continue
            if entry.kind == "segments" and entry.name not in self.fields:
                target[...] = 0
                continue
            field = self._field(signature, entry)
            values = self.fields[field][rows]
            if self.scale is not None and self._scaled(field):
                low, high = map(np.float32, self.scale)
                values = (values.astype(np.float32) - low) / (high - low)
            if entry.kind == "series" and values.ndim != target.ndim:  # one channel, with its axis or without
                values = values[:, None] if values.ndim < target.ndim else values[:, 0]
            part = tuple(slice(0, min(a, b)) for a, b in zip(values.shape, target.shape, strict=True))
            if values.shape != target.shape:
                target[...] = 0
            target[part] = values[part]

    def _scaled(self, field: str) -> bool:
        return self.scale is not None and field == next(iter(self.fields))

    def _lengths(self, rows: NDArray[np.int64], length: int | None, sequence: str) -> NDArray[np.int64]:
        fields = [self.fields[sequence]] if sequence in self.fields else list(self.fields.values())
        longest = max(array.shape[-1] if array.ndim > 1 else 1 for array in fields)
        lengths = self.by_sequence.get(sequence) if sequence and self.by_sequence else self.lengths
        every = np.full(len(rows), longest) if lengths is None else lengths[rows]
        return np.minimum(every, length or longest)

    def _field(self, signature: Signature, entry: Input) -> str:
        """The field that an input takes: of its name, or the only one."""
        if entry.name in self.fields:
            return entry.name
        made = [other for other in signature.inputs if other.kind not in ("mask", "segments")]
        if len(self.fields) == 1 and len(made) == 1:
            return next(iter(self.fields))
        raise SamplesError(
            f"the network takes '{entry.name}' and {self.name} has no field of that name; nearest: "
            f"{nearest(entry.name, list(self.fields))}; it has {', '.join(self.fields)}."
        )

    def _check(self, signature: Signature) -> None:
        """SamplesError where the network takes other shapes than these."""
        for sequence in signature.lengths:
            along = [
                entry for entry in signature.inputs if entry.length_axis is not None and entry.sequence == sequence
            ]
            sizes = {x.name: self.fields[x.name].shape[-1] for x in along if x.name in self.fields}
            if len(set(sizes.values())) > 1:
                listed = ", ".join(f"{field} {size:,}" for field, size in sizes.items())
                raise SamplesError(f"the fields of {self.name} must have one length; they have {listed} places.")
        for entry in signature.inputs:
            if entry.kind in ("mask", "segments") and entry.name not in self.fields:
                continue
            field = self._field(signature, entry)
            shape = self.fields[field].shape[1:]
            if entry.kind == "series" and {len(shape), len(entry.shape)} == {1, 2}:
                shape = (1, *shape) if len(shape) == 1 else shape[1:] if shape[0] == 1 else shape
            loose = [i for i in range(len(entry.shape)) if i != entry.length_axis]
            if len(shape) != len(entry.shape) or any(shape[i] != entry.shape[i] for i in loose):
                raise SamplesError(
                    f"'{field}' of {self.name} has samples of shape {shape} and the network takes {entry}; give "
                    "samples of that shape, or load the network with example=samples."
                )
            integers = not entry.dtype.is_floating_point
            if integers and (self.fields[field].dtype.kind == "f" or self._scaled(field)):
                raise SamplesError(
                    f"'{field}' of {self.name} holds {self.fields[field].dtype} and the network takes whole numbers "
                    f"for {entry.name}; give integers."
                )

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        for field, array in self.fields.items():
            yield f"{field} {array.dtype} {array.shape[1:]};".encode()
            for start in range(0, len(rows), 1024):
                yield np.ascontiguousarray(array[rows[start : start + 1024]]).tobytes()
        for lengths in self.by_sequence.values() or [self.lengths]:
            if lengths is not None:
                yield lengths[rows].tobytes()


def note_cut(records: Any, cut: int, count: int, length: int) -> None:
    """Say once that of `cut` of `count` samples the end is cut off."""
    units = "tokens" if records.kind == "tokens" else "values"
    many = f"{cut:,} of {count:,} samples are longer than the {length:,} {units} that the network takes"
    note_once(records, f"{many}; the rest is cut" if cut else "")


def note_once(records: Any, note: str) -> None:
    """Say something of samples once, by a warning and in their `notes`; nothing of an empty note."""
    if note and note not in records.notes:
        records.notes.append(note)
        warnings.warn(f"{records.name}: {note}.", NetopsyWarning, stacklevel=3)


WORDS = 80  # characters of a text in its title
MOST_TOKENS = 2**24
_COUNTED = 20_000  # texts
_FOREIGN = 0.2  # the share of unknown tokens from which on a tokenizer looks like another network's


class TextRecords:
    """Texts, which the network's own tokenizer turns into tokens. `truncated` counts those that were too long.

    targets: what a decoder is to write for each text, which it gets behind its start token (teacher forcing); by
        default the text itself.
    """

    kind: Kind = "tokens"
    workers: int | None = 1

    def __init__(self, texts: Sequence[str], name: str = "texts", targets: Sequence[str] | None = None) -> None:
        for row, text in [*enumerate(texts), *enumerate(targets or ())]:
            if not isinstance(text, str):
                raise SamplesError(f"text {row} of {name} is a {type(text).__name__}; give words in quotes.")
            if not text.strip():
                raise SamplesError(f"text {row} of {name} (counted from 0) is empty; leave it out.")
        self.texts, self.targets, self.name = texts, targets, name
        self.notes: list[str] = []
        self.truncated = 0
        self._prepared: dict[Any, set[int]] = {}
        self._tokens: dict[Any, dict[int, NDArray[Any]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokens": {}}  # a worker makes its own

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, row: int) -> str:
        return self.texts[row]

    def title(self, row: int) -> str:
        """The text's beginning in one line, without characters that do not print."""
        whole = self.texts[row] if self.targets is None else f"{self.texts[row]} → {self.targets[row]}"
        text = " ".join("".join(c if c.isprintable() else " " for c in whole[: 2 * WORDS]).split())
        return text if len(text) <= WORDS and len(whole) <= 2 * WORDS else text[: WORDS - 3].rstrip() + "..."

    def thumbnail(self, row: int) -> None:
        """None: a text shows itself."""
        return None

    def prepare(self, rows: Int64[np.ndarray, " n"], preprocessing: Preprocessing | Signature) -> None:
        """Say once how many of these texts are longer than the network takes; SamplesError for one without tokens."""
        signature = preprocessing.signature
        tokens, length = tokenizer(signature, self.name), signature.length
        assert length is not None
        done = self._prepared.setdefault((tokens.digest, length), set())
        if done.issuperset(rows.tolist()):
            return
        # of a set of usual size all at once, so that one note counts them all
        rows = np.arange(len(self.texts)) if len(self.texts) <= _COUNTED else rows
        new = [row for row in rows.tolist() if row not in done]
        cut, seen, unknown, unseen = 0, 0, 0, getattr(tokens, "unknown", None)
        for start in range(0, len(new), 1024):
            part = new[start : start + 1024]
            longer = np.zeros(len(part), bool)
            for sequence, most in signature.lengths.items():
                # with room for one more, so that a text that just fits is told from one that does not
                every = self._tokens_of(part, tokens, most + 1, signature.is_written(sequence))
                longer |= np.array([len(ids) > most for ids in every])
                seen += sum(map(len, every))
                unknown += sum(number == unseen for ids in every for number in ids)
                if not all(map(len, every)):
                    row = next(row for row, ids in zip(part, every, strict=True) if not len(ids))
                    raise SamplesError(f"text {row} of {self.name} gives no tokens; leave it out.")
            cut += int(longer.sum())
        done.update(new)
        self.truncated += cut
        note_cut(self, cut, len(new), length)
        if unknown >= _FOREIGN * seen > 0:
            note_once(
                self, f"{unknown / seen:.0%} of the tokens are unknown to the tokenizer: is it the network's own?"
            )

    def cheap(self, preprocessing: Preprocessing | Signature) -> bool:
        return True

    def buffers(self, count: int, preprocessing: Preprocessing | Signature) -> Arrays:
        signature = preprocessing.signature
        tokenizer(signature, self.name)
        if self.targets is not None and len(signature.lengths) < 2:
            raise SamplesError(
                f"{self.name} has texts and targets, and the network no decoder; give one column of text."
            )
        return empty_arrays(signature, count)

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        signature = preprocessing.signature
        tokens = tokenizer(signature, self.name)
        numbers: dict[str, list[NDArray[Any]]] = {}
        for sequence, length in signature.lengths.items():
            ids = numbers[sequence] = self._encode(rows, tokens, length, signature.is_written(sequence))
            out[MASK + sequence][...] = _real(np.array(list(map(len, ids))), length)
        for name, entry in zip(signature.names, signature.inputs, strict=True):
            if entry.kind == "mask":
                out[name][...] = out[MASK + entry.sequence]
            elif entry.kind == "segments":
                out[name][...] = 0
            else:
                out[name][...] = tokens.pad
                for row, made in zip(out[name], numbers[entry.sequence], strict=True):
                    row[: len(made)] = made

    def _tokens_of(self, rows: Sequence[int], tokens: Any, length: int, written: bool) -> Sequence[Sequence[int]]:
        """The first `length` tokens of texts; written: of what a decoder writes, behind its start token."""
        if not written:
            return list(tokens.encode([self.texts[row] for row in rows], length))
        start = getattr(tokens, "start", None)
        first = [] if start is None else [start]
        texts = self.texts if self.targets is None else self.targets
        return [[*first, *ids] for ids in tokens.encode([texts[row] for row in rows], length - len(first))]

    def _encode(self, rows: NDArray[np.int64], tokens: Any, length: int, written: bool) -> list[NDArray[Any]]:
        """As `_tokens_of`; those of the first `MOST_TOKENS` are kept, for the passes that follow."""
        kept = self._tokens.setdefault((tokens.digest, length, written), {})
        new = [row for row in rows.tolist() if row not in kept]
        ids = self._tokens_of(new, tokens, length, written) if new else []
        made = {row: np.asarray(one[:length], np.int32) for row, one in zip(new, ids, strict=True)}
        numbers = [made[row] if row in made else kept[row] for row in rows.tolist()]
        if (len(kept) + len(made)) * length <= MOST_TOKENS:
            kept.update(made)
        return numbers

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        for row in rows.tolist():
            yield hashlib.blake2b(self.texts[row].encode(errors="surrogatepass")).digest()
            if self.targets is not None:
                yield hashlib.blake2b(self.targets[row].encode(errors="surrogatepass")).digest()


def tokenizer(signature: Signature, name: str) -> Any:
    """The network's tokenizer; SamplesError where it takes no text."""
    if signature.tokenizer is None or signature.length is None:
        raise SamplesError(
            f"{name} is text, and the network takes {', '.join(map(str, signature.inputs))} without a tokenizer; give "
            "a network with its tokenizer (hf:FOLDER), or samples that it takes."
        )
    return signature.tokenizer


def _real(lengths: Int64[np.ndarray, " batch"], length: int | None) -> Bool[np.ndarray, "batch length"]:
    """Which places belong to a sample."""
    return np.arange(length or int(lengths.max()))[None] < lengths[:, None]
