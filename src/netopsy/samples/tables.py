"""Samples from the columns of a table: text, rows of numbers and categories, files, or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from netopsy.errors import SamplesError, nearest
from netopsy.files import read_object
from netopsy.network.signature import Kind
from netopsy.samples.images import Contents, Entry, check_inside
from netopsy.samples.labels import column_labels, find_classes, read_targets
from netopsy.samples.records import ArrayRecords, Records, TextRecords
from netopsy.samples.samples import Samples
from netopsy.samples.series import pad_rows, read_records

LABELS = ("label", "labels", "target", "class", "y")
TEXTS = ("text", "sentence", "content", "question", "review", "document")
MASKS = ("attention_mask", "token_type_ids")
ENCODINGS = ("onehot", "codes")
SHOWN = 6  # columns in the title of a row

Columns = str | Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class Coding:
    """Which columns become which inputs, and how: the same for every part of a table.

    fields: the columns of each input. categories: of each column of text its words, by their number.
    encoding: `onehot`: a column of 0 and 1 a category; `codes`: their numbers, int64, as an embedding takes them.
    """

    fields: dict[str, tuple[str, ...]]
    categories: dict[str, tuple[str, ...]]
    encoding: str


def from_frame(
    source: Any,
    name: str = "table",
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = "auto",
    columns: Columns = None,
    categorical: str | Sequence[str] = (),
    encoding: str = "onehot",
    categories: Mapping[str, Sequence[str]] | str | Path | None = None,
    like: Samples | None = None,
    file: str | None = None,
    folder: Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    rate: int | None = None,
    length: int | None = None,
    mono: bool = False,
    outside: bool = False,
    task: Any = None,
    features: Mapping[str, Any] | None = None,
) -> Samples:
    """The rows of a table: a polars or pandas data frame, or a list of dicts.

    text: the column of texts; for an encoder and a decoder two, what is read and what is to be written.
    file: the column of pictures or sound, as bytes or as paths from `folder`. outside: whether these may leave it.
    columns: those that a network takes as a row of numbers, or a mapping {input: columns}; by default all others.
    label: the column of labels, or several; 'auto' takes one of `LABELS` if it is there; None takes none. Words are
        classes, and so are whole numbers; floats are numbers that a network is to give.
    categorical: columns of numbers that are categories, as columns of words are. encoding: see `Coding`.
    categories: {column: words} in order, or a JSON file of it; by default those that occur, sorted. like: Samples of
        another part of the table, whose columns, categories and classes these take.
    features: what Hugging Face's `dataset_info.json` says of the columns.
    Raises SamplesError for a value that is missing, NaN, or of a category that is none of those given.
    """
    frame = read_frame(source, name)
    if not frame.height:
        raise SamplesError(f"{name} has no rows.")
    if frame.width == 1 and (mark := next((mark for mark in ";\t|" if mark in frame.columns[0]), None)):
        raise SamplesError(f"{name} has one column, '{frame.columns[0]}'; write it with commas in place of {mark!r}.")
    chosen = _label_columns(frame, label, name)
    rest = [column for column in frame.columns if column not in chosen]
    features = features or {}
    file = file or _file_column(frame, rest, features)
    if text is None and file is None and columns is None:
        text = _text_column(frame, rest)
    records: Records
    if text is not None:
        every = [_texts(frame, column, name) for column in _listed(text)]
        if len(every) > 2:
            raise SamplesError(f"text={_listed(text)} names {len(every)} columns; give one, or a source and a target.")
        records = TextRecords(every[0], name, *every[1:])
    elif file is not None:
        records = _files(frame, file, folder, name, outside, rate=rate, length=length, mono=mono)
    elif nested := _nested_columns(frame, rest, columns):
        records = _arrays(frame, nested, name)
    else:
        coding = getattr(like.records, "coding", None) if like is not None else None
        coding = coding or _choose_coding(frame, rest, columns, _listed(categorical), encoding, categories, name)
        records = code_rows(frame, coding, name)
    if classes is None and like is not None:
        classes = like.classes or None
    y, names = column_labels(
        frame, chosen, find_classes(classes), features, name, records.kind == "tokens" and text is None
    )
    return Samples(name, records, *read_targets(y, names, name, task, _places(records)))


def read_frame(source: Any, name: str) -> pl.DataFrame:
    """A polars frame of a data frame, or of a list of dicts."""
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, list):
        return pl.DataFrame(source, infer_schema_length=None, strict=False)
    columns = [str(column) for column in source.columns]
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise SamplesError(f"{name} has two columns '{twice}'; give each a name of its own.")
    series = []
    for i, column in enumerate(columns):
        values = source.iloc[:, i]
        if str(values.dtype) == "category":
            words = [str(word) for word in values.cat.categories]
            cells = [None if code < 0 else words[code] for code in values.cat.codes]
            series.append(pl.Series(column, cells, dtype=pl.Enum(words)))
        elif values.dtype.kind in "iufb" and not hasattr(values.dtype, "na_value"):
            series.append(pl.Series(column, values.to_numpy()))
        else:
            missing = values.isna()
            cells = [None if gap else value for value, gap in zip(values.tolist(), missing.tolist(), strict=True)]
            series.append(pl.Series(column, cells, strict=False))
    return pl.DataFrame(series)


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file."""
    try:
        return read_object(path)
    except ValueError as error:
        raise SamplesError(f"cannot read {path}: {error}; give a JSON file of a table.") from error


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _need(frame: pl.DataFrame, columns: Sequence[str], name: str) -> None:
    for column in columns:
        if column not in frame.columns:
            raise SamplesError(
                f"{name} has no column '{column}'; nearest: {nearest(column, frame.columns)}; it has "
                f"{', '.join(frame.columns[:12])}."
            )


def _label_columns(frame: pl.DataFrame, label: str | Sequence[str] | None, name: str) -> list[str]:
    if label is None:
        return []
    if label == "auto":
        return [column for column in LABELS if column in frame.columns][:1]
    _need(frame, _listed(label), name)
    return _listed(label)


def _file_column(frame: pl.DataFrame, rest: Sequence[str], features: Mapping[str, Any]) -> str | None:
    """The column of pictures or sound: as Hugging Face says, or one of bytes, or `file`."""
    for column in rest:
        kind = features.get(column)
        dtype = frame.schema[column]
        if isinstance(kind, Mapping) and kind.get("_type") in ("Image", "Audio"):
            return column
        if dtype == pl.Binary or (isinstance(dtype, pl.Struct) and "bytes" in {field.name for field in dtype.fields}):
            return column
    return "file" if "file" in rest and frame.schema["file"] == pl.String else None


def _text_column(frame: pl.DataFrame, rest: Sequence[str]) -> str | None:
    """The column of texts: one that is called so, or the only column beside the labels, where it is one of words."""
    words = [column for column in rest if frame.schema[column] == pl.String]
    named = [column for column in words if column in TEXTS]
    return named[0] if named else words[0] if len(words) == 1 and len(rest) == 1 else None


def _texts(frame: pl.DataFrame, text: str, name: str) -> list[str]:
    _need(frame, [text], name)
    if frame.schema[text] not in (pl.String, pl.Categorical) and not isinstance(frame.schema[text], pl.Enum):
        raise SamplesError(f"column '{text}' of {name} holds {frame.schema[text]}; give a column of text.")
    texts: list[str | None] = frame[text].cast(pl.String).to_list()
    empty = next((row for row, one in enumerate(texts) if one is None or not one.strip()), None)
    if empty is not None:
        raise SamplesError(f"column '{text}' of {name} is empty in row {empty} (counted from 0); leave that row out.")
    return [one for one in texts if one is not None]


def _files(frame: pl.DataFrame, file: str, folder: Path | None, name: str, outside: bool, **sound: Any) -> Records:
    """Pictures or sound, from the bytes in a column or from files that it names. sound: how recordings are read."""
    _need(frame, [file], name)
    entries: list[Entry] = []
    endings = []
    for row, cell in enumerate(frame[file].to_list()):
        contents, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if isinstance(contents, str):
            contents, path = None, contents
        if contents is None and path is not None and folder is not None and (folder / path).is_file():
            entries.append(folder / path)
        elif isinstance(contents, bytes):
            entries.append(Contents(contents, f"{name}[{row}].{file}"))
        else:
            raise SamplesError(f"column '{file}' of {name} has no file in row {row} ({path}); mend or leave it out.")
        is_sound = isinstance(contents, bytes) and contents[:4] in (b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04")
        endings.append(".wav" if is_sound else Path(str(path or "")).suffix.lower() or ".png")
    if folder is not None:
        check_inside([entry for entry in entries if isinstance(entry, Path)], folder, name, outside)
    endings = [ending if ending in (".wav", ".flac", ".ogg", ".mp3") else ".png" for ending in endings]
    return read_records(entries, [f"file{ending}" for ending in endings], name, **sound)


def _nested_columns(frame: pl.DataFrame, rest: Sequence[str], columns: Columns) -> list[str]:
    """The columns of lists of numbers, if a network takes those: `input_ids` and its masks, or the only one."""
    chosen = rest if columns is None or isinstance(columns, Mapping) else _listed(columns)
    nested = [column for column in chosen if column in frame.columns and _is_nested(frame.schema[column])]
    if "input_ids" in nested:
        return ["input_ids", *(column for column in nested if column in MASKS)]
    return nested if columns is not None and len(nested) == len(chosen) else nested[:1] if len(nested) == 1 else []


def _is_nested(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array) or str(dtype).lower().startswith("ext")


def _arrays(frame: pl.DataFrame, columns: Sequence[str], name: str) -> ArrayRecords:
    """Lists of numbers as arrays, shorter ones padded with zeros."""
    fields: dict[str, NDArray[Any]] = {}
    lengths = None
    for column in columns:
        rows = []
        for row, cell in enumerate(frame[column].to_list()):
            try:
                values = np.asarray(cell)
            except ValueError:  # lists of differing lengths within a row
                values = np.empty(0, object)
            if values.dtype.kind not in "fiub" or not values.size:
                raise SamplesError(
                    f"column '{column}' of {name} has no array of numbers in row {row} (from 0); mend it."
                )
            rows.append(values.astype(np.float32) if values.dtype.kind == "f" else values.astype(np.int64))
        if len({values.ndim for values in rows}) > 1 or len({values.shape[:-1] for values in rows}) > 1:
            raise SamplesError(f"column '{column}' of {name} has arrays of differing shapes; give one shape.")
        sizes = np.array([values.shape[-1] for values in rows], np.int64)
        lengths = sizes if lengths is None and len(set(sizes.tolist())) > 1 else lengths
        fields[column] = pad_rows(rows)
    first = next(iter(fields.values()))
    whole = first.dtype.kind == "i" and first.ndim == 2
    series: Kind = "series" if lengths is not None else "vector"
    kind: Kind = "tokens" if whole else series if first.ndim == 2 else "array"
    return ArrayRecords(fields, kind, lengths, name)


def _places(records: Records) -> tuple[int, ...]:
    fields = getattr(records, "fields", {})
    return next(iter(fields.values())).shape[1:] if records.kind == "tokens" and fields else ()


def _choose_coding(
    frame: pl.DataFrame,
    rest: Sequence[str],
    columns: Columns,
    categorical: Sequence[str],
    encoding: str,
    categories: Mapping[str, Sequence[str]] | str | Path | None,
    name: str,
) -> Coding:
    """The columns given, or all others, and for those of words their categories."""
    if encoding not in ENCODINGS:
        raise SamplesError(f"no encoding '{encoding}' of categories; give {' or '.join(ENCODINGS)}.")
    given = read_json(Path(categories)) if isinstance(categories, str | Path) else dict(categories or {})
    fields = dict(columns) if isinstance(columns, Mapping) else {"": rest if columns is None else _listed(columns)}
    every = [column for listed in fields.values() for column in _listed(listed)]
    if not every:
        raise SamplesError(f"{name} has no columns beside its labels; give columns=.")
    _need(frame, [*every, *categorical, *given], name)
    words: dict[str, tuple[str, ...]] = {}
    for column in every:
        dtype = frame.schema[column]
        if column in given:
            words[column] = tuple(map(str, given[column]))
        elif isinstance(dtype, pl.Enum):
            words[column] = tuple(dtype.categories.to_list())
        elif column in categorical or dtype in (pl.String, pl.Categorical):
            words[column] = _find_categories(frame[column], column, name)
        elif not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            raise SamplesError(
                f"column '{column}' of {name} holds {dtype}, neither numbers nor words; leave it out with columns=."
            )
    if isinstance(columns, Mapping) or encoding == "onehot":
        named = {field or "input": tuple(_listed(listed)) for field, listed in fields.items()}
        mixed = next(
            (f for f, cs in named.items() if encoding == "codes" and 0 < sum(c in words for c in cs) < len(cs)), ""
        )
        if mixed:
            raise SamplesError(f"input '{mixed}' of {name} mixes numbers and codes of categories; give each an input.")
        return Coding(named, words, encoding)
    parts = {"numbers": tuple(c for c in every if c not in words), "codes": tuple(c for c in every if c in words)}
    return Coding({field: listed for field, listed in parts.items() if listed}, words, encoding)


def _find_categories(values: pl.Series, column: str, name: str) -> tuple[str, ...]:
    """The words of a column, sorted; SamplesError where they are damaged numbers, or differ in nearly each row."""
    words = values.cast(pl.String).drop_nulls()
    if values.dtype == pl.String:
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
        if numbers.count() * 2 > len(words) > numbers.count():
            row = int((numbers.is_null() & values.is_not_null()).arg_max() or 0)
            raise SamplesError(
                f"column '{column}' of {name} has '{values[row]}' in row {row} (counted from 0), where others are "
                "numbers; mend it, or give categorical= with that column."
            )
    distinct = sorted(words.unique().to_list())
    if len(distinct) > 100 and len(distinct) * 2 > len(values):
        raise SamplesError(
            f"column '{column}' of {name} has {len(distinct):,} different texts in {len(values):,} rows, which are no "
            f"categories; give text='{column}', or columns= without it."
        )
    return tuple(distinct)


def code_rows(frame: pl.DataFrame, coding: Coding, name: str) -> ArrayRecords:
    """The rows of a table as the inputs that `coding` says."""
    used = [column for columns in coding.fields.values() for column in columns]
    _need(frame, used, name)
    fields: dict[str, NDArray[Any]] = {}
    for field, columns in coding.fields.items():
        parts = [_code(frame[column], coding.categories.get(column), name) for column in columns]
        if coding.encoding == "codes" and columns[0] in coding.categories:
            fields[field] = np.stack(parts, axis=1)
            continue
        hot = [
            (part[:, None] == np.arange(len(coding.categories[column])))
            if column in coding.categories
            else part[:, None]
            for column, part in zip(columns, parts, strict=True)
        ]
        fields[field] = np.concatenate(hot, axis=1).astype(np.float32)
    records = ArrayRecords(fields, "vector", None, name, describe=_Rows(frame.select(used)))
    records.coding = coding
    return records


@dataclass(frozen=True)
class _Rows:
    """The rows of a table in words: the first columns with their values."""

    frame: pl.DataFrame

    def __call__(self, row: int) -> str:
        cells = [
            f"{column} {value:.4g}" if isinstance(value, float) else f"{column} {value}"
            for column, value in zip(self.frame.columns[:SHOWN], self.frame.row(row)[:SHOWN], strict=True)
        ]
        return " ".join(", ".join(cells).split()) + (", ..." if self.frame.width > SHOWN else "")


def _code(values: pl.Series, words: tuple[str, ...] | None, name: str) -> NDArray[Any]:
    """A column as float64 numbers, or as the int64 numbers of its categories."""
    column = values.name
    gaps = values.is_null() | (values.is_nan() | values.is_infinite() if values.dtype.is_float() else False)
    if gaps.any():
        row = int(gaps.arg_max() or 0)
        what = "no value" if values[row] is None else f"{values[row]}"
        raise SamplesError(
            f"column '{column}' of {name} has {what} in row {row} (counted from 0; {int(gaps.sum()):,} in all); fill "
            "it, or leave such rows or the column out."
        )
    if words is None:
        if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
            raise SamplesError(
                f"column '{column}' of {name} holds {values.dtype}; it must be numbers, as where it was fitted."
            )
        return values.cast(pl.Float64).to_numpy()
    number = {word: i for i, word in enumerate(words)}
    cells = values.cast(pl.String).to_list()
    unseen = next((row for row, cell in enumerate(cells) if cell not in number), None)
    if unseen is not None:
        raise SamplesError(
            f"column '{column}' of {name} has '{cells[unseen]}' in row {unseen} (counted from 0), none of its "
            f"{len(words)} categories ({', '.join(words[:8])}); give categories= with the words of every part."
        )
    return np.array([number[cell] for cell in cells], np.int64)
