"""A folder of images: a folder a class, or flat with a CSV of labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netopsy.errors import SamplesError, nearest
from netopsy.samples.images import FileImages
from netopsy.samples.labels import Labels, find_classes, indices_of, multi_hot
from netopsy.samples.samples import Samples

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {"train", "training", "val", "valid", "validation", "test"}

Classes = str | Path | Sequence[str] | None


def from_folder(
    folder: Path,
    split: str | None,
    *,
    labels: str | Path | None = None,
    file: str = "file",
    label: str | Sequence[str] | None = None,
    separator: str = ";",
    classes: Classes = None,
) -> Samples:
    """Images in `folder`, or in its subfolder `split`.

    labels: a CSV with a row an image; None takes `labels.csv` in the folder if there is one, else a folder is a class.
    file, label: names of its columns; see `from_table`.
    classes: names in order, or a text file of them; None takes `classes.txt` in the folder if there is one.
    """
    if split is not None:
        if not (folder / split).is_dir():
            raise SamplesError(
                f"{folder} has no subfolder '{split}'; nearest: {nearest(split, _folders(folder)) or 'none'}; "
                "leave the split out for a folder without parts."
            )
        folder = folder / split
    table = folder / "labels.csv" if labels is None else Path(labels)
    if labels is not None and not table.is_file() and (folder / table).is_file():
        table = folder / table
    if labels is not None or table.is_file():
        return from_table(table, folder, file=file, label=label, separator=separator, classes=classes)
    return from_class_folders(folder, classes)


def from_class_folders(folder: Path, classes: Classes = None) -> Samples:
    """Images at any depth in one subfolder a class, numbered alphabetically, as torchvision's ImageFolder does."""
    names = _folders(folder)
    paths: list[Path] = []
    words: list[str] = []
    for name in names:
        folder_paths = _pictures(folder / name)
        paths += folder_paths
        words += [name] * len(folder_paths)
    if not paths:
        flat = any(entry.name.lower().endswith(SUFFIXES) for entry in os.scandir(folder))
        have = (
            "has images but no labels: put labels.csv (file,label) beside them, or give" if flat else "is empty: give"
        )
        raise SamplesError(f"{folder} {have} a folder with one subfolder of images a class, or labels=CSV.")
    if SPLITS.issuperset(name.lower() for name in names) and any(_folders(folder / name) for name in names):
        raise SamplesError(f"{folder} holds the parts {', '.join(names)}, not classes; give split='{names[-1]}'.")
    class_names = find_classes(classes, folder)
    all_names = tuple(names) if class_names is None else class_names
    index = {name: i for i, name in enumerate(all_names)}
    for name in sorted(set(words)):
        if name not in index:
            raise SamplesError(
                f"{folder} has a subfolder '{name}', not among its class names; nearest: {nearest(name, all_names)}."
            )
    return Samples(
        folder.name or str(folder), FileImages(paths), np.array([index[w] for w in words], np.int64), all_names
    )


def from_table(
    table: Path,
    folder: Path | None = None,
    *,
    file: str = "file",
    label: str | Sequence[str] | None = None,
    separator: str = ";",
    classes: Classes = None,
) -> Samples:
    """Images named in the column `file` of a CSV, relative to `folder` (None: the CSV's own).

    label: one column, of class indices or class names, several a row if any row has a `separator`; or several columns
    of 0 and 1, whose names are the classes; None takes the column `label`, or all others where there is none.
    """
    folder = table.parent if folder is None else folder
    header, rows = read_table(table)
    columns = [label] if isinstance(label, str) else list(label or [])
    if not columns:
        columns = ["label"] if "label" in header else [name for name in header if name != file]
    for column in (file, *columns):
        if column not in header:
            raise SamplesError(f"{table} has no column '{column}'; it has {', '.join(header)}.")
    if not rows or not columns:
        raise SamplesError(f"{table} has {'no rows' if columns else 'no labels'}; give a row an image: file,label.")
    named_files = [row[header.index(file)] for row in rows]
    paths = [folder / name for name in named_files]
    absent = [name for name, path in zip(named_files, paths, strict=True) if not path.is_file()]
    if absent:
        raise SamplesError(
            f"{table} names {len(absent)} of {len(rows)} files that are not in {folder}, the first '{absent[0]}'; "
            "mend the table or give the folder that holds them."
        )
    values = [[row[header.index(column)] for column in columns] for row in rows]
    class_names = find_classes(classes, folder) or find_classes(None, table.parent)
    multiple = len(columns) > 1 or (label is None and columns != ["label"])
    hot, names = (
        _columns(values, columns, table) if multiple else _cells([v[0] for v in values], separator, class_names, table)
    )
    return Samples(folder.name or str(folder), FileImages(paths), hot, names)


def _cells(
    cells: list[str], separator: str, classes: tuple[str, ...] | None, table: Path
) -> tuple[Labels, tuple[str, ...]]:
    if not any(separator in cell for cell in cells):
        if "" in cells:
            raise SamplesError(f"{table} has no label in row {cells.index('') + 2}; give every image one.")
        return indices_of(cells, classes, str(table))
    parts = [[word.strip() for word in cell.split(separator) if word.strip()] for cell in cells]
    flat, names = indices_of([word for row in parts for word in row], classes, str(table))
    if not names:
        raise SamplesError(f"{table} has no label in any row; give class names, or the classes themselves.")
    ends = np.cumsum([len(row) for row in parts])
    return multi_hot(np.split(flat, ends[:-1]), len(names)), names


def _columns(values: list[list[str]], columns: list[str], table: Path) -> tuple[Labels, tuple[str, ...]]:
    invalid = next((cell for row in values for cell in row if cell.strip() not in ("0", "1")), None)
    if invalid is not None:
        raise SamplesError(
            f"{table} has '{invalid}' in one of its label columns {', '.join(columns[:5])}; several label columns hold "
            "0 and 1; name one column with label=COLUMN for class names."
        )
    return np.array(values, np.float32), tuple(columns)


def read_table(table: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV, all as text, empty lines left out."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SamplesError(f"cannot read the labels in {table}: {reason}; give a UTF-8 CSV with a header.") from error
    header = rows[0] if rows else []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise SamplesError(
                f"{table} has {len(row)} cells in row {number} and {len(header)} columns; mend that row."
            )
    return header, rows[1:]


def _folders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    """Image files at any depth, in the order of torchvision's ImageFolder."""
    return [
        Path(place, name)
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
