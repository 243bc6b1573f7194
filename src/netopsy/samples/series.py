"""Samples that are read when they are asked for: recordings, arrays in files, and the shards of a WebDataset."""

from __future__ import annotations

import io
import json
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray

from netopsy.errors import MissingExtra, SamplesError
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Arrays, Kind, Signature
from netopsy.samples.images import Entry, FileImages, Span, read_entry
from netopsy.samples.labels import find_classes, indices_of, read_targets
from netopsy.samples.pixels import draw_values, title_values
from netopsy.samples.records import ArrayRecords, Records, TextRecords, note_cut
from netopsy.samples.samples import Samples

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SOUND = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


class LazyRecords:
    """Arrays by name that are read when they are asked for, sample by sample.

    item: the arrays of one row, each of its field's shape or, along the last axis, shorter.
    shapes, dtypes: by field, of one sample; the longest. lengths, rate, describe: as in `ArrayRecords`.
    """

    def __init__(
        self,
        item: Callable[[int], Arrays],
        count: int,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, Any],
        kind: Kind,
        lengths: Int64[np.ndarray, " n"] | None = None,
        name: str = "samples",
        *,
        rate: int | None = None,
        describe: Callable[[int], str] | None = None,
        workers: int | None = None,
    ) -> None:
        self.item, self.count, self.kind, self.lengths, self.name = item, count, kind, lengths, name
        self.rate, self.describe, self.workers = rate, describe, workers
        empty = {field: np.empty((0, *shapes[field]), dtypes[field]) for field in shapes}
        self.form = ArrayRecords(empty, kind, None if lengths is None else lengths[:0], name)
        self.notes: list[str] = []

    def __len__(self) -> int:
        return self.count

    def signature(self) -> Signature:
        """The inputs of a network that takes each field as it is."""
        return self.form.signature()

    def read(self, row: int) -> Arrays | NDArray[Any]:
        """The sample's values by field; of a single field its values alone."""
        values = self._item(row)
        return values if len(values) > 1 else next(iter(values.values()))

    def title(self, row: int) -> str:
        """What `describe` says, how long a series is, else the first values."""
        if self.describe is not None:
            return self.describe(row)
        values = next(iter(self._item(row).values()))
        return title_values(values, self.kind, values.shape[-1] if values.ndim else None, self.rate)

    def thumbnail(self, row: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """The outline of a series, the middle slice of an array."""
        return draw_values(next(iter(self._item(row).values())), self.kind)

    def prepare(self, rows: Int64[np.ndarray, " n"], preprocessing: Preprocessing | Signature) -> None:
        """Say once of how many of these samples the end is cut off."""
        length = preprocessing.signature.length
        if length is not None:
            longest = next(iter(self.form.fields.values())).shape[-1]
            every = np.full(len(rows), longest) if self.lengths is None else self.lengths[rows]
            note_cut(self, int((every > length).sum()), len(rows), length)

    def cheap(self, preprocessing: Preprocessing | Signature) -> bool:
        return False

    def buffers(self, count: int, preprocessing: Preprocessing | Signature) -> Arrays:
        return self.form.buffers(count, preprocessing)

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        items = [self._item(row) for row in rows.tolist()]
        fields = {
            field: pad_rows([item[field] for item in items], form.shape[1:]).astype(form.dtype, copy=False)
            for field, form in self.form.fields.items()
        }
        lengths = None if self.lengths is None else self.lengths[rows]
        ArrayRecords(fields, self.kind, lengths, self.name).fill(out, np.arange(len(rows)), preprocessing)

    def _item(self, row: int) -> Arrays:
        values = self.item(row)
        for field, form in self.form.fields.items():
            shape = values[field].shape
            if len(shape) != form.ndim - 1 or any(a > b for a, b in zip(shape, form.shape[1:], strict=True)):
                raise SamplesError(f"{field} of {self.name} has shape {shape} in row {row}, unlike before.")
            if values[field].dtype.kind == "f" and not np.isfinite(values[field]).all():
                raise SamplesError(f"{field} of {self.name} is NaN or infinite in row {row}; mend or leave it out.")
        return values

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        for row in rows.tolist():
            for field, values in self._item(row).items():
                yield f"{field} {values.dtype} {values.shape};".encode() + np.ascontiguousarray(values).tobytes()


def pad_rows(rows: Sequence[NDArray[Any]], shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Rows of one number of axes as one array, with zeros behind shorter ones; shape: of a row, None: the longest."""
    if shape is None:
        shape = tuple(max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True))
    out = np.zeros((len(rows), *shape), np.result_type(*{row.dtype for row in rows}))
    for target, row in zip(out, rows, strict=True):
        target[tuple(slice(0, size) for size in row.shape)] = row
    return out


def read_records(
    entries: Sequence[Entry],
    names: Sequence[str],
    name: str,
    *,
    rate: int | None = None,
    length: int | None = None,
    mono: bool = False,
) -> Records:
    """Files as samples of the kind that the ending of the first says: pictures, sound, arrays (.npy) or text (.txt).

    names: of the files, with their endings. rate, length, mono: of sound, see `from_recordings`.
    """
    ending = Path(names[0]).suffix.lower()
    other = next((one for one in names if _group(Path(one).suffix.lower()) != _group(ending)), None)
    if other is not None:
        raise SamplesError(f"{name} holds '{names[0]}' and '{other}', which are not of one kind; keep them apart.")
    if ending in SOUND:
        return read_recordings(entries, name, rate=rate, length=length, mono=mono)
    if rate is not None or length is not None or mono:
        raise SamplesError(f"{name} holds no sound; leave rate, length and mono out.")
    if ending in PICTURES:
        return FileImages(entries)
    if ending == ".npy":
        return _arrays(entries, name)
    texts = []
    for entry in entries:
        try:
            texts.append(read_entry(entry, "text").decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise SamplesError(f"the text {entry} is not UTF-8 ({error.reason}); save it as UTF-8.") from error
    return TextRecords(texts, name)


def _group(ending: str) -> str:
    return "image" if ending in PICTURES else "sound" if ending in SOUND else ending


def _arrays(entries: Sequence[Entry], name: str) -> LazyRecords:
    """Arrays in `.npy` files, all of one shape and type."""

    def item(row: int) -> Arrays:
        try:
            return {"input": np.load(io.BytesIO(read_entry(entries[row], "array")), allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise SamplesError(f"{entries[row]} is damaged or no .npy file; write it again.") from error

    first = item(0)["input"]
    if first.dtype.kind not in "fiub":
        raise SamplesError(f"{entries[0]} holds {first.dtype}; give numbers.")
    kind: Kind = "vector" if first.ndim < 2 else "array"
    return LazyRecords(item, len(entries), {"input": first.shape}, {"input": first.dtype}, kind, name=name)


def read_recordings(
    entries: Sequence[Entry], name: str, *, rate: int | None = None, length: int | None = None, mono: bool = False
) -> LazyRecords:
    """Sound files as series (length,), or (channel, length) of more than one channel, float32 in -1..1.

    rate: in Hz, to which all are resampled; by default that of the files, which must then agree.
    length: values, at which longer recordings are cut. mono: the mean of the channels.
    """
    if (rate is not None and rate < 1) or (length is not None and length < 1):
        raise SamplesError(f"rate {rate} and length {length} of {name} must be at least 1.")
    heads = [measure(entry) for entry in entries]
    rates = sorted({head[0] for head in heads})
    if rate is None and len(rates) > 1:
        odd = next(entry for entry, head in zip(entries, heads, strict=True) if head[0] != heads[0][0])
        raise SamplesError(
            f"the recordings of {name} have {' and '.join(f'{one:,}' for one in rates[:4])} Hz ({entries[0]} has "
            f"{heads[0][0]:,}, {odd} has not); give rate={heads[0][0]} to resample all to that."
        )
    channels = sorted({1 if mono else head[1] for head in heads})
    if len(channels) > 1:
        raise SamplesError(
            f"the recordings of {name} have {' and '.join(map(str, channels))} channels; give mono=True for their mean."
        )
    target = rate or rates[0]
    every = np.array([-(-frames * target // given) for given, _, frames in heads], np.int64)
    if every.min() < 1:
        raise SamplesError(f"the recording {entries[int(every.argmin())]} is empty; leave it out.")
    lengths = np.minimum(every, length or every.max())

    def item(row: int) -> Arrays:
        values = decode(entries[row], target)
        values = values.mean(0, dtype=np.float32, keepdims=True) if mono else values
        return {"input": (values[0] if channels[0] == 1 else values)[..., : lengths[row]]}

    longest = int(lengths.max())
    shape = (longest,) if channels[0] == 1 else (channels[0], longest)
    same = bool((lengths == longest).all())
    records = LazyRecords(
        item, len(entries), {"input": shape}, {"input": np.float32}, "series", None if same else lengths, name,
        rate=target,
    )  # fmt: skip
    if length is not None:
        note_cut(records, int((every > length).sum()), len(every), length)
    return records


def measure(entry: Entry) -> tuple[int, int, int]:
    """The rate in Hz, the channels and the values a channel of a recording."""
    if isinstance(entry, Path) and entry.suffix.lower() == ".wav":
        rate, values = _read_wav(entry, entry)
        return rate, 1 if values.ndim == 1 else values.shape[1], len(values)
    contents = read_entry(entry, "recording")
    if contents[:4] in (b"RIFF", b"RIFX", b"RF64"):
        rate, values = _read_wav(io.BytesIO(contents), entry)
        return rate, 1 if values.ndim == 1 else values.shape[1], len(values)
    soundfile = _soundfile(entry)
    try:
        head = soundfile.info(io.BytesIO(contents))
    except RuntimeError as error:  # soundfile's own, of whatever it cannot read
        raise SamplesError(f"cannot read the recording {entry}: {_plain(error)}; mend or remove it.") from error
    return head.samplerate, head.channels, head.frames


def decode(entry: Entry, rate: int | None = None) -> Float32[np.ndarray, "channel length"]:
    """A recording, float32 in -1..1, resampled to `rate` by a polyphase filter (scipy's `resample_poly`)."""
    contents = read_entry(entry, "recording")
    if contents[:4] in (b"RIFF", b"RIFX", b"RF64"):
        given, values = _read_wav(io.BytesIO(contents), entry)
        if values.dtype == np.uint8:
            values = (values.astype(np.float32) - 128) / np.float32(128)
        elif values.dtype.kind == "i":
            values = values.astype(np.float32) / np.float32(2.0 ** (8 * values.dtype.itemsize - 1))
        values = values.astype(np.float32, copy=False)
    else:
        try:
            values, given = _soundfile(entry).read(io.BytesIO(contents), dtype="float32")
        except RuntimeError as error:
            raise SamplesError(f"cannot read the recording {entry}: {_plain(error)}; mend or remove it.") from error
    values = values[None] if values.ndim == 1 else np.ascontiguousarray(values.T)
    if rate is None or rate == given:
        return values
    from scipy.signal import resample_poly

    return resample_poly(values, rate, given, axis=1).astype(np.float32)


def _read_wav(file: Any, entry: Entry) -> tuple[int, NDArray[Any]]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of notes that it passes over
        try:
            rate, values = wavfile.read(file)
        except OSError as error:
            raise SamplesError(f"cannot read the recording {entry}: {error.strerror or error}.") from error
        except Exception as error:  # scipy's reader raises nearly anything on damaged files
            raise SamplesError(f"cannot read the recording {entry}: {_plain(error)}; mend or remove it.") from error
    if rate < 1:
        raise SamplesError(f"the recording {entry} says {rate} Hz; mend or remove it.")
    return int(rate), values


def _soundfile(entry: Entry) -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtra(f"reading '{entry}', which is no WAV,", "audio") from error
    return soundfile


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:160] or type(error).__name__


def find_shards(source: str) -> list[Path]:
    """The tar files that a path names: one, those of a folder, or a range as in `train-{000..146}.tar`."""
    span = re.search(r"\{(\d+)\.\.(\d+)\}", source)
    if span is None:
        path = Path(source).expanduser()
        return sorted(path.glob("*.tar")) if path.is_dir() else [path]
    first, last = int(span[1]), int(span[2])
    if not first <= last < first + 1_000_000:
        raise SamplesError(f"'{span[0]}' in {source} is no range of shards; give {{FIRST..LAST}}.")
    names = [source[: span.start()] + str(i).zfill(len(span[1])) + source[span.end() :] for i in range(first, last + 1)]
    return [Path(name).expanduser() for name in names]


def from_shards(
    paths: Sequence[Path],
    name: str,
    *,
    label: str | None = "auto",
    classes: str | Path | Sequence[str] | None = None,
    rate: int | None = None,
    length: int | None = None,
    mono: bool = False,
    task: Any = None,
) -> Samples:
    """The shards of a WebDataset: tar files whose members of one name before the first dot are one sample.

    A sample is its picture, sound, array (.npy) or text (.txt); its label the member `cls`, or what its member `json`
    has under `label` ('auto': `label`, where all have one; None: none). Members are read when they are asked for.
    """
    groups: dict[str, dict[str, Span]] = {}
    for path in paths:
        for member in _members(path):
            key, _, ending = member.name.rpartition("/")[2].partition(".")
            folder = member.name.rpartition("/")[0]
            groups.setdefault(f"{path}:{folder}/{key}", {})[f".{ending.lower()}"] = member
    kinds = [(*PICTURES, *SOUND), (".npy",), (".txt",)]
    endings = {ending for group in groups.values() for ending in group}
    wanted = next((kind for kind in kinds if endings & set(kind)), None)
    if wanted is None:
        found = ", ".join(sorted(endings)[:8]) or "nothing"
        raise SamplesError(f"{name} holds {found}; give shards with pictures, sound, .npy or .txt.")
    entries = [next((group[e] for e in group if e in wanted), None) for group in groups.values()]
    if None in entries:
        key = list(groups)[entries.index(None)]
        raise SamplesError(f"the sample {key} has none of {', '.join(sorted(endings & set(wanted)))}; mend the shard.")
    spans = [entry for entry in entries if entry is not None]
    records = read_records(spans, [one.name for one in spans], name, rate=rate, length=length, mono=mono)
    words = None if label is None else _shard_labels(list(groups.values()), label, name)
    if words is None:
        return Samples(name, records, None)
    if all(isinstance(word, str) for word in words):
        labels, names = indices_of(words, find_classes(classes), name)
        y: NDArray[Any] = labels
        return Samples(name, records, *read_targets(y, names, name, task))
    return Samples(name, records, *read_targets(np.asarray(words), find_classes(classes), name, task))


def _members(path: Path) -> Iterator[Span]:
    """The plain files in a tar that is not compressed."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                    yield Span(path, member.offset_data, member.size, member.name)
    except (OSError, tarfile.TarError) as error:
        why = f"cannot read the shard {path}: {_plain(error)}"
        raise SamplesError(f"{why}; give plain .tar files, unpacked if they are .tar.gz.") from error


def _shard_labels(groups: list[dict[str, Span]], label: str, name: str) -> list[Any] | None:
    """The labels of samples, as numbers or words; None where no sample has one."""
    ending = next((e for e in (".cls", ".json") if any(e in group for group in groups)), None)
    if ending is None or (label == "auto" and not all(ending in group for group in groups)):
        if ending is None and label == "auto":
            return None
        raise SamplesError(f"some samples of {name} have no {ending or '.cls'}; give one each, or label=None.")
    words: list[Any] = []
    for group in groups:
        text = read_entry(group[ending], "label").decode("utf-8", "replace").strip() if ending in group else ""
        if ending == ".cls":
            words.append(text)
            continue
        try:
            table = json.loads(text)
            words.append(table["label" if label == "auto" else label])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if label == "auto" and isinstance(error, KeyError) and not words:
                return None
            raise SamplesError(f"{group.get(ending, name)} has no '{label}'; give label=KEY, or label=None.") from error
    return words
