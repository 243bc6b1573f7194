"""Features as they are read from `.npy` and `.npz` files, and labels from `.npy`, `.csv` and `.txt`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netopsy.errors import SamplesError, nearest
from netopsy.features.extract import RowNumbers
from netopsy.samples.arrays import read_npz, unreadable
from netopsy.samples.folders import read_table


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
