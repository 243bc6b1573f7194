"""Samples in folders and table files: a folder a class, files with a CSV of labels, tables, a saved data set."""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from netopsy.errors import NetopsyWarning, SamplesError, nearest
from netopsy.samples.images import FileImages, check_inside
from netopsy.samples.labels import Labels, find_classes, indices_of, multi_hot, read_targets
from netopsy.samples.records import Records
from netopsy.samples.samples import Samples
from netopsy.samples.series import PICTURES, SOUND, read_records
from netopsy.samples.tables import from_frame, read_json
from netopsy.wording import plural

FORMATS = {"images": PICTURES, "recordings": SOUND, "arrays": (".npy",), "texts": (".txt",)}
TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".arrow", ".feather", ".ipc")
SPLITS = {"train", "training", "val", "valid", "validation", "test"}

Classes = str | Path | Sequence[str] | None


def from_folder(
    folder: Path,
    split: str | None,
    *,
    labels: str | Path | None = None,
    file: str = "file",
    label: str | Sequence[str] | None = "auto",
    separator: str = ";",
    classes: Classes = None,
    rate: int | None = None,
    length: int | None = None,
    mono: bool = False,
    outside: bool = False,
    task: Any = None,
) -> Samples:
    """Images, recordings, arrays (.npy) or texts (.txt) in `folder`, or in its subfolder `split`.

    labels: a CSV with a row a file; None takes `labels.csv` in the folder if there is one, else a folder is a class.
    file, label: names of its columns; see `from_table`. label=None: all files at any depth, without labels.
    classes: names in order, or a text file of them; None takes `classes.txt` in the folder if there is one.
    rate, length, mono: of recordings, see `read_recordings`.
    outside: whether links, and names in a CSV, may lead out of the folder.
    """
    sound: dict[str, Any] = {"rate": rate, "length": length, "mono": mono}
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
    if labels is not None or (table.is_file() and label is not None):
        return from_table(
            table,
            folder,
            file=file,
            label=label,
            separator=separator,
            classes=classes,
            **sound,
            outside=outside,
            task=task,
        )
    if label is None:
        paths = files_in(folder, outside=outside)
        if not paths:
            raise SamplesError(f"{folder} holds no {', '.join(FORMATS)}.")
        return Samples(folder.name or str(folder), _records(paths, folder, sound), None)
    return from_class_folders(folder, classes, sound, outside)


def from_class_folders(
    folder: Path, classes: Classes = None, sound: Mapping[str, Any] | None = None, outside: bool = False
) -> Samples:
    """Files at any depth in one subfolder a class, numbered alphabetically, as torchvision's ImageFolder does."""
    names = _folders(folder)
    by_name = {name: files_in(folder / name, folder, outside=outside) for name in names}
    kinds = [kind for kind in FORMATS if any(_kind(paths[0]) == kind for paths in by_name.values() if paths)][:1]
    paths = [path for listed in by_name.values() for path in listed if _kind(path) in kinds]
    words = [name for name, listed in by_name.items() for path in listed if _kind(path) in kinds]
    if not paths:
        loose = [kind for entry in os.scandir(folder) if (kind := _kind(Path(entry.name))) is not None]
        have = (
            f"has {loose[0]} but no labels: put labels.csv (file,label) beside them, or give label=None for none, or"
            if loose
            else "is empty: give"
        )
        raise SamplesError(f"{folder} {have} a folder with one subfolder of images per class, or labels=CSV.")
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
    records = _records(paths, folder, sound or {})
    return Samples(folder.name or str(folder), records, np.array([index[w] for w in words], np.int64), all_names)


def from_table(
    table: Path,
    folder: Path | None = None,
    *,
    file: str = "file",
    label: str | Sequence[str] | None = "auto",
    separator: str = ";",
    classes: Classes = None,
    rate: int | None = None,
    length: int | None = None,
    mono: bool = False,
    outside: bool = False,
    task: Any = None,
) -> Samples:
    """Images, recordings, arrays or texts named in the column `file` of a CSV, relative to `folder` (None: its own).

    label: one column, of class indices or class names, several a row if any row has a `separator`; or several columns
    of 0 and 1, whose names are the classes; 'auto' takes the column `label`, or all others where there is none; None
    takes none. task='regression': the labels are numbers that a network is to give. outside: whether names may lead out
    of the folder.
    """
    folder = table.parent if folder is None else folder
    header, rows = read_table(table)
    columns = [label] if isinstance(label, str) else list(label or [])
    if label == "auto":
        columns = ["label"] if "label" in header else [name for name in header if name != file]
    for column in (file, *columns):
        if column not in header:
            raise SamplesError(f"{table} has no column '{column}'; it has {', '.join(header)}.")
    if not rows or not (columns or label is None):
        raise SamplesError(f"{table} has {'no rows' if columns else 'no labels'}; give one row per image: file,label.")
    named_files = [row[header.index(file)] for row in rows]
    paths = [folder / name for name in named_files]
    absent = [name for name, path in zip(named_files, paths, strict=True) if not path.is_file()]
    if absent:
        raise SamplesError(
            f"{table} names {len(absent)} of {len(rows)} files that are not in {folder}, the first '{absent[0]}'; "
            "mend the table or give the folder that holds them."
        )
    check_inside(paths, folder, table.name, outside)
    records = _records(paths, folder, {"rate": rate, "length": length, "mono": mono})
    name = folder.name or str(folder)
    if label is None:
        return Samples(name, records, None)
    values = [[row[header.index(column)] for column in columns] for row in rows]
    if getattr(task, "name", task) == "regression":
        return Samples(name, records, *read_targets(_numbers(values, table), None, str(table), task))
    class_names = find_classes(classes, folder) or find_classes(None, table.parent)
    multiple = len(columns) > 1 or (label == "auto" and columns != ["label"])
    hot, names = (
        _columns(values, columns, table) if multiple else _cells([v[0] for v in values], separator, class_names, table)
    )
    return Samples(name, records, hot, names)


def _numbers(values: list[list[str]], table: Path) -> NDArray[Any]:
    """The cells of label columns as numbers."""
    try:
        return np.array(values, float)
    except ValueError as error:
        raise SamplesError(
            f"the labels in {table} are not all numbers ({error}); give numbers for a regression."
        ) from error


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


def _kind(path: Path) -> str | None:
    """Of what kind a file is, by its ending."""
    return next((kind for kind, endings in FORMATS.items() if path.name.lower().endswith(endings)), None)


def files_in(folder: Path, root: Path | None = None, *, outside: bool = False, only: str | None = None) -> list[Path]:
    """The files at any depth of the first of `FORMATS` that is there, in the order of torchvision's ImageFolder.

    Links are followed once, and unless `outside` is asked for only to what lies in `root`, by default the folder; what
    is no regular file is left out. A warning says what was. only: the one of `FORMATS` that is asked for.
    """
    home, seen, left_out, every = os.path.realpath(root or folder), set(), [], []

    def leads_out(path: str) -> bool:
        return not outside and not Path(os.path.realpath(path)).is_relative_to(home)

    def walk(place: str) -> None:
        if (real := os.path.realpath(place)) in seen:
            return
        seen.add(real)
        entries = sorted(os.scandir(place), key=lambda entry: (entry.is_symlink(), entry.name))
        for entry in entries:
            if entry.is_dir() and not leads_out(entry.path):
                walk(entry.path)
            elif not entry.name.startswith(".") and _kind(Path(entry.name)) is not None:
                every.append(entry.path) if entry.is_file() and not leads_out(entry.path) else left_out.append(entry)
            elif entry.is_dir():
                left_out.append(entry)

    walk(str(folder))
    if left_out:
        warnings.warn(
            f"{plural(len(left_out), 'entry', 'entries')} of {folder} left out, the first '{left_out[0].path}': no "
            "regular file, or a link out of the folder; where you trust such links, give outside=True (--outside).",
            NetopsyWarning,
            stacklevel=2,
        )
    paths = [Path(path) for path in sorted(every, key=lambda path: os.path.split(path))]
    kind = only or next((kind for kind in FORMATS if any(_kind(path) == kind for path in paths)), None)
    return [path for path in paths if _kind(path) == kind]


def _records(paths: Sequence[Path], folder: Path, sound: Mapping[str, Any]) -> Records:
    if all(_kind(path) in (None, "images") for path in paths) and not any(sound.values()):
        return FileImages(paths)
    return read_records(paths, [path.name for path in paths], folder.name or str(folder), **sound)


def read_files(paths: Sequence[Path]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The rows of table files of one form, one after another, and what Hugging Face wrote of their columns."""
    frames, features = [], {}
    for path in paths:
        try:
            frames.append(_read_file(path))
            if path.suffix == ".parquet":
                features = json.loads(pl.read_parquet_metadata(path).get("huggingface", "{}"))
                features = features.get("info", {}).get("features", {})
        except (OSError, pl.exceptions.PolarsError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:160]
            raise SamplesError(f"{path} is damaged or no {path.suffix} file ({reason}); write it again.") from error
    try:
        return pl.concat(frames), features
    except pl.exceptions.PolarsError as error:
        raise SamplesError(f"{paths[0]} and the {len(paths) - 1} tables beside it differ in their columns.") from error


def _read_file(path: Path) -> pl.DataFrame:
    if path.suffix in (".csv", ".tsv"):
        separator = "\t" if path.suffix == ".tsv" else ","
        return pl.read_csv(path, separator=separator, infer_schema_length=None, glob=False)
    if path.suffix == ".parquet":
        return pl.read_parquet(path, glob=False, hive_partitioning=False)
    if path.suffix in (".jsonl", ".ndjson"):
        return pl.read_ndjson(path, infer_schema_length=None)
    if path.suffix == ".json":
        return pl.read_json(path, infer_schema_length=None)
    with path.open("rb") as file:
        stream = file.read(6) != b"ARROW1"
    return pl.read_ipc_stream(path) if stream else pl.read_ipc(path)


def from_tables(paths: Sequence[Path], name: str, split: str | None, **options: Any) -> Samples:
    """Table files; see `from_frame`. split: rows whose column `split` says so, of a table with such a column."""
    frame, features = read_files(paths)
    part = None
    if split is not None:
        if "split" not in frame.columns:
            raise SamplesError(f"{name} has no column 'split'; leave split '{split}' out.")
        part = frame["split"].cast(pl.String) == split
        if not part.any():
            parts = sorted(map(str, frame["split"].unique()))
            raise SamplesError(f"{name} has no split '{split}'; it has {', '.join(parts)}.")
        frame = frame.drop("split")
    samples = from_frame(frame, name, folder=paths[0].parent, features=features, **options)
    if part is None:
        return samples
    return samples.select(np.flatnonzero(part.to_numpy()), f"{name}[{split}]")


def find_tables(folder: Path, split: str | None) -> list[Path]:
    """The table files of a folder, or in its subfolder `data`; of several parts those that `split` names."""
    every = [path for place in (folder, folder / "data") if place.is_dir() for path in sorted(place.iterdir())]
    tables = [path for path in every if path.suffix in TABLES and path.name not in ("dataset_info.json", "state.json")]
    tables = [path for path in tables if path.suffix == tables[0].suffix]
    parts = sorted({one for path in tables if (one := _part(path)) is not None})
    if split is None and len(parts) > 1:
        raise SamplesError(f"{folder} holds the parts {', '.join(parts)}; give split='{parts[-1]}'.")
    if split is not None and parts:
        if split not in parts:
            raise SamplesError(f"{folder} has no split '{split}'; it has {', '.join(parts)}.")
        return [path for path in tables if _part(path) == split]
    return tables


def _part(path: Path) -> str | None:
    match = re.search(r"(?:^|[-_.])(train|training|validation|valid|val|dev|test)(?:[-_.]|$)", path.stem)
    return None if match is None else match[1]


def from_saved(folder: Path, split: str | None, **options: Any) -> Samples:
    """A folder that Hugging Face `datasets` wrote with `save_to_disk`; of several parts the one called `split`."""
    name = folder.name
    if (folder / "dataset_dict.json").is_file():
        parts = read_json(folder / "dataset_dict.json").get("splits", [])
        if split is None and len(parts) == 1:
            split = parts[0]
        if split is None or split not in parts:
            wrong = "holds several parts" if split is None else f"has no split '{split}'"
            raise SamplesError(f"{folder} {wrong}; give split= one of {', '.join(map(str, parts))}.")
        folder = folder / str(split)
        name = f"{name}[{split}]"
    elif split is not None:
        raise SamplesError(f"{folder} has no splits; leave split '{split}' out.")
    state, info = (read_json(folder / file) for file in ("state.json", "dataset_info.json"))
    frame, _ = read_files(_saved_files(folder, state, "_data_files"))
    indices = state.get("_indices_files")
    if indices:
        order, _ = read_files(_saved_files(folder, state, "_indices_files"))
        rows = order.to_series().to_numpy()
        if rows.size and not 0 <= rows.min() <= rows.max() < frame.height:
            raise SamplesError(f"the indices of {folder} go beyond its {frame.height} rows; save the data set again.")
        frame = frame[rows]
    return from_frame(frame, name, folder=folder, features=info.get("features") or {}, **options)


def _saved_files(folder: Path, state: dict[str, Any], key: str) -> list[Path]:
    names = [str(entry.get("filename")) for entry in state.get(key) or () if isinstance(entry, dict)]
    if not names or any(Path(name).name != name or not (folder / name).is_file() for name in names):
        raise SamplesError(f"{folder / 'state.json'} names no files that are in the folder; save the data set again.")
    return [folder / name for name in names]
