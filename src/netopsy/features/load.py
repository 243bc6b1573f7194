"""Features from `.npy`, `.npz` and `.parquet` files, with labels from `.npy`, `.csv` and `.txt`, and from arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from netopsy.errors import SamplesError, nearest
from netopsy.features.extract import RowNumbers, split_rows
from netopsy.features.features import Features, blocks_of, occurring, read_labels
from netopsy.samples.arrays import as_array, read_npz, unreadable
from netopsy.samples.folders import read_table

FORMS = "a .npy with labels=FILE, an .npz, a .parquet, or a pair of arrays (x, y)"


def load_features(
    source: Any,
    *,
    labels: Any = None,
    x: str | None = None,
    y: str | None = None,
    split: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    test_share: float = 0.5,
    seed: int = 0,
) -> Features:
    """Feature vectors with labels from `source`, in a training and a test part.

    source: a path to a `.npy` of vectors (n, p), to an `.npz` with `x` and `y` or `x_train`, `y_train`, `x_test` and
        `y_test`, or to a `.parquet`; or a pair of arrays or tensors (x, y).
    labels: for a `.npy`: the labels, as an array or a `.npy`, `.csv` or `.txt` (one a line).
    x: the arrays' name in an `.npz`; in a `.parquet` the column of vectors, or columns of numbers as `name,name` or
        `name*`. y: the labels' array or column.
    split: the column of a `.parquet` that says `train` or `test`; `split` where there is one. Rows of `val` are tested
        on where there is no `test`, and left out else.
    classes: names in order, or a text file of them, one a line. Labels are whole numbers, text (sorted by name), or
        rows of 0 and 1. Classes without a vector are left out.
    test_share, seed: a source of one part is split into training and test, stratified.
    Raises SamplesError for anything that is missing, damaged or does not fit, SettingsError for a share or seed.
    """
    raw = _read(source, _Options(labels, x, y, split))
    if classes is None:
        classes = raw.classes
    vectors = check_vectors(raw.x, raw.name)
    all_labels, names = read_labels(raw.y, classes, raw.name)
    if len(vectors) != len(all_labels):
        raise SamplesError(
            f"{raw.name} has {len(vectors):,} vectors and {len(all_labels):,} labels; give one label each."
        )
    train, test = raw.parts or split_rows(all_labels, test_share, seed, raw.name, names)
    y_train, y_test, names = occurring(all_labels[train], all_labels[test], names)
    return Features(raw.name, vectors[train], y_train, vectors[test], y_test, names)


@dataclass(frozen=True)
class _Options:
    labels: Any
    x: str | None
    y: str | None
    split: str | None

    def none_but(self, what: str, *allowed: str) -> None:
        """Raise SamplesError for an option that `what` has no use for."""
        for name in ("labels", "x", "y", "split"):
            if getattr(self, name) is not None and name not in allowed:
                raise SamplesError(f"{what} takes no {name}; it takes {', '.join(allowed) or 'none of these options'}.")


def _read(source: Any, options: _Options) -> Raw:
    if isinstance(source, tuple | list):
        if len(source) != 2:
            what = f"a {type(source).__name__} of {len(source)}"
            raise SamplesError(f"{what} is no source of features; give a pair (x, y) of vectors and labels.")
        options.none_but("a pair of arrays")
        return Raw("arrays", as_array(source[0], "arrays"), as_array(source[1], "arrays"))
    if not isinstance(source, str | Path):
        raise SamplesError(f"a {type(source).__name__} is no source of features; give {FORMS}.")
    path = Path(source).expanduser()
    if not os.path.isfile(path):
        raise SamplesError(f"no features '{source}': it is no file; give {FORMS}.")
    if path.suffix == ".npy":
        options.none_but(path.name, "labels")
        return from_npy(path, options.labels)
    if path.suffix == ".npz":
        options.none_but(path.name, "x", "y")
        return from_npz(path, options.x, options.y)
    if path.suffix == ".parquet":
        options.none_but(path.name, "x", "y", "split")
        return from_parquet(path, options.x, options.y, options.split)
    raise SamplesError(f"'{source}' is a {path.suffix or 'file'}; give {FORMS}.")


def check_vectors(x: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """Vectors (n, p) as Features hold them: float16 and float32 as they are, other numbers as float32."""
    if x.dtype.kind == "O":
        raise SamplesError(f"{name} holds objects, not numbers; save vectors of one length as a plain float array.")
    if x.ndim != 2 or x.dtype.kind not in "fiub":
        hint = "; flatten each to one row" if x.ndim > 2 else ""
        raise SamplesError(
            f"the vectors of {name} are {x.dtype} of shape {x.shape}; give numbers (n, dimensions){hint}."
        )
    if not x.size:
        raise SamplesError(f"{name} holds no vectors (shape {x.shape}); give at least two of each class.")
    if x.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            x = x.astype(np.float32)
    first = 0
    for part in blocks_of(x):
        good = np.isfinite(part).all(1)
        if not good.all():
            row = first + int(np.flatnonzero(~good)[0])
            raise SamplesError(
                f"vector {row} of {name} holds NaN, infinity or more than float32 can; mend it or leave it out."
            )
        first += len(part)
    return np.ascontiguousarray(x) if not isinstance(x, np.memmap) else x


@dataclass(frozen=True)
class Raw:
    """Vectors `x` and labels `y`; `classes` that the source names, and rows to train on and to test on, if it parts."""

    name: str
    x: NDArray[np.generic]
    y: NDArray[np.generic]
    classes: tuple[str, ...] | None = None
    parts: tuple[RowNumbers, RowNumbers] | None = None


def from_npy(path: Path, labels: Any) -> Raw:
    """Vectors of a `.npy`, mapped into memory, and labels from an array or a file."""
    if labels is None:
        raise SamplesError(
            f"{path.name} holds vectors without labels; give labels=FILE (.npy, .csv, or .txt with one a line)."
        )
    x = read_npy(path, mapped=True)
    return Raw(path.name, x, read_label_file(labels) if isinstance(labels, str | Path) else np.asarray(labels))


def read_npy(path: Path, *, mapped: bool = False) -> NDArray[np.generic]:
    """The array of a `.npy` without pickled objects."""
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        raise SamplesError(f"{path} is no .npy file; write one with numpy.save.")
    return array


def read_label_file(source: str | Path) -> NDArray[np.generic]:
    """Labels from a `.npy`, a `.csv` (the column `label`, or the only one) or a `.txt` (one a line)."""
    path = Path(source).expanduser()
    if not os.path.isfile(path):
        raise SamplesError(f"no labels '{source}': it is no file; give a .npy, a .csv or a .txt with one label a line.")
    if path.suffix == ".npy":
        return read_npy(path)
    if path.suffix not in (".csv", ".txt"):
        raise SamplesError(f"the labels '{source}' are a {path.suffix or 'file'}; give a .npy, a .csv or a .txt.")
    if path.suffix == ".csv":
        header, rows = read_table(path)
        column = "label" if "label" in header else ", ".join(header[:5])
        if column not in header:
            raise SamplesError(f"{path} has no column 'label' among '{column}'; name one so.")
        return np.array([row[header.index(column)].strip() for row in rows], dtype=str)
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SamplesError(f"cannot read the labels in {path} ({error}); give UTF-8 text.") from error
    return np.array([line.strip() for line in lines], dtype=str)


def from_npz(path: Path, x: str | None, y: str | None) -> Raw:
    """Arrays `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`, of an `.npz`; `classes` names the classes.

    x, y: other names of the two, with `_train` and `_test` behind them where there are four.
    """
    names, arrays, classes = read_npz(path, lambda stored: _names(stored, x or "x", y or "y", path), "vectors")
    if len(arrays) == 2:
        return Raw(path.name, arrays[0], arrays[1], classes)
    for a, b in ((0, 2), (1, 3)):
        if arrays[a].ndim == 0 or arrays[a].shape[1:] != arrays[b].shape[1:]:
            raise SamplesError(
                f"{path} has {names[a]} of shape {arrays[a].shape} and {names[b]} of shape {arrays[b].shape}; give "
                "both parts alike."
            )
    for a, b in ((0, 1), (2, 3)):
        if len(arrays[a]) != len(arrays[b]):
            raise SamplesError(
                f"{path} has {len(arrays[a]):,} rows in {names[a]} and {len(arrays[b]):,} in {names[b]}; give one "
                "label each."
            )
    cut = len(arrays[0])
    joined = np.concatenate([arrays[0], arrays[2]]), np.concatenate([arrays[1], arrays[3]])
    return Raw(path.name, *joined, classes, (np.arange(cut), np.arange(cut, len(joined[0]))))


def _names(stored: set[str], x: str, y: str, path: Path) -> tuple[str, ...]:
    four = tuple(f"{name}_{part}" for part in ("train", "test") for name in (x, y))
    names = (x, y) if x in stored or not stored & set(four) else four
    for name in names:
        if name not in stored:
            raise SamplesError(
                f"{path} has no array '{name}'; nearest: {nearest(name, sorted(stored)) or 'none, it is empty'}; give "
                "x and y by these names, or x=NAME and y=NAME."
            )
    return names


_LABELS = ("label", "labels", "class", "target", "y")
_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_VALIDATION = ("val", "valid", "validation", "dev")


def from_parquet(path: Path, x: str | None, y: str | None, split: str | None) -> Raw:
    """Vectors, labels and parts of a Parquet file; see `load_features` for x, y and split."""
    try:
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = lazy.collect_schema()
        label = _label_column(schema, y, path)
        parting = _split_column(schema, split, path)
        columns = _vector_columns(schema, x, {label, parting} - {None}, path)
        frame = lazy.select(list(dict.fromkeys([*columns, label, *([parting] if parting else [])]))).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise SamplesError(f"{path} is damaged or no Parquet file ({reason}); write it again.") from error
    if not frame.height:
        raise SamplesError(f"{path} holds no vectors; give two or more of each class.")
    name, rows, parts = path.name, None, None
    if parting is not None:
        parts, left_out = _parts(frame[parting], parting, path)
        if left_out:
            name = f"{name} without {left_out:,} rows of validation"
            rows = np.concatenate(parts)
            parts = (np.arange(len(parts[0])), np.arange(len(parts[0]), len(rows)))
            frame = frame[rows]
    vectors = _stack(frame[columns[0]], path) if _is_nested(schema[columns[0]]) else _beside(frame, columns, path)
    return Raw(name, vectors, _labels(frame[label], path), None, parts)


def _label_column(schema: pl.Schema, y: str | None, path: Path) -> str:
    if y is not None:
        _need(schema, y, path)
        return y
    columns = [name for name in _LABELS if name in schema]
    if not columns:
        raise SamplesError(f"{path} has no column 'label' among {_few(list(schema))}; give y=COLUMN.")
    return columns[0]


def _split_column(schema: pl.Schema, split: str | None, path: Path) -> str | None:
    if split is not None:
        _need(schema, split, path)
        return split
    return "split" if "split" in schema else None


def _vector_columns(schema: pl.Schema, x: str | None, used: set[str | None], path: Path) -> list[str]:
    """One column of vectors, or all columns of numbers that are meant."""
    free = [name for name in schema if name not in used]
    if x is not None:
        columns: list[str] = []
        for word in x.split(","):
            matches = [name for name in free if name == word.strip() or fnmatchcase(name, word.strip())]
            if not matches:
                _need(schema, word.strip(), path)
                raise SamplesError(f"column '{word.strip()}' of {path} is the labels' or the split's; name another.")
            columns += matches
        nested = [name for name in columns if _is_nested(schema[name])]
        if nested and len(columns) > 1:
            raise SamplesError(
                f"x names {len(columns)} columns of {path} and '{nested[0]}' holds vectors; name it alone."
            )
        for name in columns:
            if not nested and not schema[name].is_numeric():
                raise SamplesError(f"column '{name}' of {path} holds {schema[name]}, not numbers; name others.")
        return columns
    vectors = [name for name in free if _is_nested(schema[name])]
    if len(vectors) > 1:
        raise SamplesError(f"{path} has several columns of vectors ({_few(vectors)}); give x=COLUMN.")
    if vectors:
        return vectors
    floats = [name for name in free if schema[name].is_float()]
    integers = [name for name in free if schema[name].is_integer()]
    if floats and integers:  # an identifier among the features would pass for one
        raise SamplesError(
            f"{path} has {len(floats)} columns of floats and {len(integers)} of whole numbers ({_few(integers)}); say "
            "which are features: x=NAME,NAME or x=PREFIX*."
        )
    if not floats and not integers:
        raise SamplesError(f"{path} has no column of vectors or numbers among {_few(list(schema))}; give x=COLUMN.")
    return floats or integers


def _stack(column: pl.Series, path: Path) -> NDArray[np.generic]:
    """A column of vectors as an array (n, p)."""
    lengths = column.list.len() if isinstance(column.dtype, pl.List) else column.arr.len()
    sizes = set(lengths.to_list())
    if len(sizes) > 1 or None in sizes:
        ordered = sorted(size for size in sizes if size is not None)
        what = "empty cells" if None in sizes else f"vectors of {ordered[0]} to {ordered[-1]} values"
        raise SamplesError(f"column '{column.name}' of {path} has {what}; give vectors of one length.")
    if sizes == {0}:
        raise SamplesError(f"column '{column.name}' of {path} has vectors without a value; give one or more each.")
    flat = column.explode()
    if flat.null_count():
        raise SamplesError(
            f"column '{column.name}' of {path} has vectors with empty values; mend or leave out the rows."
        )
    return flat.to_numpy().reshape(len(column), -1)


def _beside(frame: pl.DataFrame, columns: list[str], path: Path) -> NDArray[np.generic]:
    """Columns of numbers as an array (n, p)."""
    empty = [name for name in columns if frame[name].null_count()]
    if empty:
        raise SamplesError(f"column '{empty[0]}' of {path} has empty cells; mend or leave out the rows.")
    return frame.select(columns).to_numpy()


def _labels(column: pl.Series, path: Path) -> NDArray[np.generic]:
    if column.null_count():
        raise SamplesError(f"column '{column.name}' of {path} has rows without a label; mend or leave out the rows.")
    if _is_nested(column.dtype):
        return _stack(column, path)
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if not (column.dtype == pl.String or column.dtype == pl.Boolean or column.dtype.is_integer()):
        raise SamplesError(
            f"column '{column.name}' of {path} holds {column.dtype}; labels are whole numbers, text, or 0/1 lists."
        )
    return column.to_numpy().astype(str) if column.dtype == pl.String else column.to_numpy()


def _parts(column: pl.Series, name: str, path: Path) -> tuple[tuple[RowNumbers, RowNumbers], int]:
    """Rows to train on, rows to test on, and how many of validation are left out."""
    words = [str(word).strip().lower() for word in column.to_list()]
    test = _PARTS if any(_PARTS.get(word) == "test" for word in words) else _PARTS | dict.fromkeys(_VALIDATION, "test")
    kinds = np.array([test.get(word, "left out" if word in _VALIDATION else "") for word in words])
    invalid = np.flatnonzero(kinds == "")
    if len(invalid):
        raise SamplesError(
            f"column '{name}' of {path} says '{column[int(invalid[0])]}' in row {invalid[0]}; a split says train, "
            "test or val."
        )
    train, tested = np.flatnonzero(kinds == "train"), np.flatnonzero(kinds == "test")
    if not len(train) or not len(tested):
        values = ", ".join(sorted(set(words)))
        raise SamplesError(f"column '{name}' of {path} says {values} only; it needs rows of train and rows of test.")
    return (train, tested), int((kinds == "left out").sum())


def _is_nested(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.List | pl.Array)


def _need(schema: pl.Schema, column: str, path: Path) -> None:
    if column not in schema:
        raise SamplesError(f"{path} has no column '{column}'; nearest: {nearest(column, list(schema))}; name one.")


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
