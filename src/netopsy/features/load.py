"""Find out what a source of features is, and load it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netopsy.errors import SamplesError
from netopsy.features.extract import split_rows
from netopsy.features.features import Features, blocks_of, occurring, read_labels
from netopsy.features.read import Raw, from_npy, from_npz, from_parquet
from netopsy.samples.arrays import as_array

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
