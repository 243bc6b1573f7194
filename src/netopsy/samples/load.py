"""Find out what a source of samples is, and load it."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from netopsy.errors import SamplesError, nearest
from netopsy.samples.arrays import TARGETS, from_digits, from_fields, from_npy, from_npz, from_pair
from netopsy.samples.datasets import from_dataset, from_loader, from_torchvision
from netopsy.samples.dogs import from_stanford_dogs, is_stanford_dogs
from netopsy.samples.folders import (
    FORMATS,
    TABLES,
    files_in,
    find_tables,
    from_folder,
    from_saved,
    from_table,
    from_tables,
    read_table,
)
from netopsy.samples.images import FileImages, NamedImages
from netopsy.samples.labels import find_classes
from netopsy.samples.records import TextRecords
from netopsy.samples.samples import Samples
from netopsy.samples.series import find_shards, from_shards
from netopsy.samples.tables import from_frame

FORMS = (
    "digits, torchvision:NAME, text:FILE or a .txt, frames:FOLDER, NAME=FOLDER,NAME=FOLDER, a folder, a table (.csv, "
    ".tsv, .parquet, .jsonl, .arrow), an .npz, .npy or .tar, arrays or (arrays, labels), a data frame, or a torch "
    "dataset or DataLoader"
)


def load_samples(
    source: Any, *, split: str | None = None, count: int | None = None, seed: int = 0, task: Any = None, **options: Any
) -> Samples:
    """Samples of any kind from `source`, with labels or without.

    source: `digits`; `torchvision:NAME`; `text:FILE` or a `.txt`, one text a line; `frames:FOLDER`, each picture with
    the next one; `image1=FOLDER,image2=FOLDER`, several pictures a sample by the names of inputs; a folder with a
    subfolder a class, with `labels.csv`, with tables, with shards (`.tar`), or saved by Hugging Face `datasets`; a
    table (`.csv`, `.tsv`, `.parquet`, `.jsonl`, `.arrow`); an `.npz` or `.npy`; an array, a tensor, a list of texts, or
    a pair of these and labels; a mapping of arrays by the names of inputs; a polars or pandas data frame; a torch
    dataset or DataLoader.
    split: part of the set, where it has parts.
    count: take so many, stratified by class; the same `seed` takes the same. It draws the masks of `masked token` too.
    task: what right means: a name of `netopsy.samples.tasks.TASKS`, a `Task`, a function (outputs, targets) -> a score
    for each sample, or `module:function`, which names one; None: what labels and network suggest.
    options: further keywords of the source's own loader (`from_folder`, `from_frames`, `from_named`, `from_table`,
    `from_frame`, `from_npz`, `from_npy`, `from_pair`, `from_fields`, `from_text`, `from_shards`, `from_torchvision`,
    `from_dataset`, `from_loader`). Most take `label` (None: without labels). `classes` names the classes of any: names,
    or a file of them with one a line or as JSON.
    Errors: SamplesError; MissingExtra for a format that an optional package reads.
    """
    task = _find_task(task, seed)
    samples = _load(source, split, options if task is None else {**options, "task": task})
    if task is not None:
        samples = samples.with_task(task)
    return samples if count is None else samples.subset(count, seed)


def _find_task(task: Any, seed: int) -> Any:
    """A task by its name, or the function that `module:function` names."""
    from netopsy.samples.tasks import MASKED_TOKEN, TASKS, masked_token

    if not isinstance(task, str):
        if task is None or callable(task) or hasattr(task, "judge"):
            return task
        raise SamplesError(f"the task is a {type(task).__name__}; give a name ({', '.join(TASKS)}) or a function.")
    name = task.replace("_", " ").replace("-", " ")
    if name == MASKED_TOKEN.name and seed:
        return masked_token(seed=seed)
    if name in TASKS:
        return name
    module, colon, function = task.partition(":")
    if not colon:
        raise SamplesError(f"no task '{task}'; nearest: {nearest(name, list(TASKS))}; all: {', '.join(TASKS)}.")
    try:
        chosen = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SamplesError(f"cannot import the task '{task}': {error}; give module:function.") from error
    if not callable(chosen):
        raise SamplesError(f"the task '{task}' is a {type(chosen).__name__}; give a function.")
    return chosen


def from_text(path: Path, *, empty: str = "error") -> Samples:
    """Texts in a UTF-8 file, one a line. empty: `skip` leaves empty lines out, `error` refuses them."""
    if empty not in ("error", "skip"):
        raise SamplesError(f"empty='{empty}' must be 'error' or 'skip'.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SamplesError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8, one text a line.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not any(line.strip() for line in lines):
        raise SamplesError(f"'{path}' is a .txt without text; give one text a line.")
    hole = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if hole is not None and empty == "error":
        raise SamplesError(f"line {hole} of {path} is empty; remove it, or give empty='skip'.")
    return Samples(path.name, TextRecords([line for line in lines if line.strip()], path.name), None)


def from_frames(folder: Path, *, label: str | None = None, outside: bool = False) -> Samples:
    """The pictures of a film: each with the next one, in the order of their names, within each folder at any depth.

    outside: whether links may lead out of the folder.
    """
    if label is not None:
        raise SamplesError(f"frames:{folder} have no labels; give them as image1=FOLDER,image2=FOLDER,flow=FOLDER.")
    if not folder.is_dir():
        raise SamplesError(f"frames:{folder} is no folder; give one of pictures, numbered by their names.")
    scenes = [
        list(group) for _, group in groupby(files_in(folder, outside=outside, only="images"), lambda path: path.parent)
    ]
    pairs = [pair for scene in scenes for pair in pairwise(scene)]
    if not pairs:
        raise SamplesError(f"{folder} holds no two pictures in one folder; give the pictures of a film.")
    first, second = zip(*pairs, strict=True)
    return Samples(
        folder.name or str(folder),
        NamedImages({"first": FileImages(first), "second": FileImages(second)}, folder.name or str(folder)),
        None,
    )


def from_named(
    folders: Mapping[str, Path], name: str, *, label: str | None = "auto", task: Any = None, outside: bool = False
) -> Samples:
    """Several pictures a sample: the files of one folder for each input, in the order of their names.

    label: which of the folders holds, a file a sample, the numbers that a network is to give: `.npy`, or optical flow
    as `.flo`; 'auto': one called `flow` or as in `TARGETS`. outside: whether links may lead out of a folder.
    """
    if label == "auto":
        label = next((one for one in ("flow", *TARGETS) if one in folders), None)
    inputs = {field: path for field, path in folders.items() if field != label}
    for field, path in folders.items():
        if not path.is_dir():
            raise SamplesError(f"'{path}', given for {field}, is no folder; give one of pictures.")
    files = {field: files_in(path, outside=outside, only="images") for field, path in inputs.items()}
    targets = [] if label is None else sorted(p for p in folders[label].rglob("*") if p.suffix in (".npy", ".flo"))
    counts = {field: len(paths) for field, paths in files.items()} | ({} if label is None else {label: len(targets)})
    if len(inputs) < 2 or len(set(counts.values())) > 1 or not all(counts.values()):
        listed = ", ".join(f"{field} has {count:,}" for field, count in counts.items())
        raise SamplesError(
            f"{name}: each of two inputs or more must have one file a sample, and of these {listed}; give a folder "
            "each, with as many files."
        )
    flows = [_read_map(path) for path in targets]
    if len({flow.shape for flow in flows}) > 1:
        raise SamplesError(f"the maps in {folders[label or '']} differ in size; give those of one size at a time.")
    records, maps = NamedImages.labelled(
        {field: FileImages(paths) for field, paths in files.items()}, name, np.stack(flows) if flows else None
    )
    return Samples(name, records, None if maps is None else maps.astype(np.float32), ())


def _read_map(path: Path) -> NDArray[Any]:
    """Numbers of one sample: an array, or optical flow (2, height, width) in pixels, x first (Middlebury's `.flo`)."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        content = path.read_bytes()
        width, height = np.frombuffer(content, "<i4", 2, 4).tolist()
        if content[:4] != b"PIEH" or len(content) != 12 + 8 * width * height:
            raise ValueError("no such number of values")
        return np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1)
    except (OSError, ValueError, EOFError) as error:
        raise SamplesError(f"{path} is damaged or no {path.suffix} file ({error}); write it again.") from error


def _load(source: Any, split: str | None, options: dict[str, Any]) -> Samples:
    if isinstance(source, Samples):
        _no_split(source.name, split)
        return _call(lambda: source, source.name, options)
    if isinstance(source, str | Path):
        return _from_name(source, split, options)
    what = type(source).__name__
    home = type(source).__module__.partition(".")[0]
    if home == "datasets" and isinstance(source, Mapping):  # several parts of a Hugging Face data set
        if split not in source:
            raise SamplesError(f"a {what} has the parts {', '.join(source)}; give split= one of these.")
        source, split = source[split], None
    _no_split("a pair of arrays" if isinstance(source, tuple | list) else f"a {what}", split)
    if isinstance(source, list | tuple) and not source:
        raise SamplesError(f"the {what} holds no samples; give {FORMS}.")
    if isinstance(source, list) and any(isinstance(one, str | bytes) for one in source):
        odd = next((i for i, one in enumerate(source) if not isinstance(one, str)), None)
        if odd is not None:
            raise SamplesError(f"text {odd} of the list (counted from 0) is a {type(source[odd]).__name__}; give str.")
        return _call(from_pair, "texts", options, source)
    if isinstance(source, list) and source and all(isinstance(one, dict) for one in source):
        return _call(from_frame, "rows", options, source)
    if isinstance(source, tuple | list):
        if len(source) != 2:
            raise SamplesError(f"a {what} of {len(source)} is no pair (x, y) of samples and labels.")
        if isinstance(source[0], Mapping):
            label = options.get("label", "y")
            return _call(from_fields, "arrays", {"label": label, **options}, {**source[0], label: source[1]})
        if isinstance(source[0], pl.DataFrame) or type(source[0]).__module__.startswith("pandas"):
            source = (np.asarray(source[0].to_numpy()), np.asarray(source[1]))
        return _call(from_pair, "arrays", options, source[0], source[1])
    if isinstance(source, pl.DataFrame | pl.LazyFrame) or (home == "pandas" and hasattr(source, "columns")):
        return _call(from_frame, "table", options, source)
    if isinstance(source, Mapping):
        return _call(from_fields, "arrays", options, source)
    if isinstance(source, np.ndarray | torch.Tensor):
        return _call(from_pair, "arrays", options, source)
    if hasattr(source, "collate_fn") and hasattr(source, "dataset"):
        return _call(from_loader, what, options, source)
    if isinstance(source, torch.utils.data.IterableDataset):
        return _call(from_loader, what, options, torch.utils.data.DataLoader(source, batch_size=None))
    if hasattr(source, "__getitem__"):
        return _call(from_dataset, what, options, source)
    raise SamplesError(f"a {what} is no source of samples; give {FORMS}.")


def _from_name(source: str | Path, split: str | None, options: dict[str, Any]) -> Samples:
    name = str(source)
    if name == "digits":
        return _call(from_digits, name, options, split)
    if name.startswith("torchvision:"):
        return _call(from_torchvision, name, options, name.removeprefix("torchvision:"), split)
    if name.startswith("frames:"):
        _no_split(name, split)
        return _call(from_frames, name, options, Path(name.removeprefix("frames:")).expanduser())
    parts = [part.partition("=") for part in re.split(r",(?=\w+=)", name)]
    if all(equals and re.fullmatch(r"\w+", field) for field, equals, _ in parts) and not os.path.exists(name):
        _no_split(name, split)
        return _call(from_named, name, options, {field: Path(path).expanduser() for field, _, path in parts}, name)
    text = name.startswith("text:")
    path = Path(name.removeprefix("text:")).expanduser()
    if os.path.isdir(path) and not text:  # not path.is_dir(), which raises on names that no file can have
        return _from_folder(path, name, split, options)
    if "{" in name and ".." in name:
        _no_split(name, split)
        return _call(from_shards, name, options, find_shards(name), path.name)
    if not os.path.isfile(path):
        raise SamplesError(f"no samples '{name}': it is no file or folder; give {FORMS}.")
    suffix = ".txt" if text else path.suffix.lower()
    if suffix == ".npz":
        return _call(from_npz, name, options, path, split)
    if suffix == ".csv" and not {"text", "columns"} & set(options) and _names_files(path, options):
        _no_split(name, split)
        return _call(from_table, name, options, path)
    if suffix in TABLES:
        return _call_table(from_tables, name, options, [path], path.name, split)
    _no_split(name, split)
    if suffix == ".txt":
        return _call(from_text, name, {key: value for key, value in options.items() if key != "label" or value}, path)
    if suffix == ".npy":
        return _call(from_npy, name, options, path)
    if suffix == ".tar":
        return _call(from_shards, name, options, [path], path.name)
    raise SamplesError(f"'{name}' is a {path.suffix or 'file'}; give {FORMS}.")


def _from_folder(path: Path, name: str, split: str | None, options: dict[str, Any]) -> Samples:
    """A folder, by what lies in it."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _call_table(from_saved, name, options, path, split)
    if "labels" not in options and is_stanford_dogs(path):
        return _call(from_stanford_dogs, name, options, path, split)
    inner = path / split if split is not None and os.path.isdir(path / split) else path
    if shards := find_shards(str(inner)):
        return _call(from_shards, name, options, shards, inner.name)
    if "labels" not in options and not (inner / "labels.csv").is_file() and not _holds_files(inner):
        tables = find_tables(inner, None if inner != path else split)
        if tables:
            return _call_table(from_tables, name, options, tables, inner.name, None)
    return _call(from_folder, name, options, path, split)


def _holds_files(folder: Path) -> bool:
    """Whether files of a kind that a folder may hold lie in it, at any depth."""
    endings = tuple(ending for listed in FORMATS.values() for ending in listed if ending != ".txt")
    return any(name.lower().endswith(endings) for _, _, names in os.walk(folder) for name in names)


def _names_files(path: Path, options: dict[str, Any]) -> bool:
    """Whether a CSV names a file a row, rather than holding the samples itself."""
    return "file" in options or "file" in read_table(path)[0]


def _no_split(what: str, split: str | None) -> None:
    if split is not None:
        raise SamplesError(f"{what} has no splits; leave split '{split}' out.")


def _call_table(loader: Callable[..., Samples], name: str, options: dict[str, Any], *arguments: Any) -> Samples:
    """`loader` of a table, whose options are those of `from_frame`."""
    allowed = [one for one in inspect.signature(from_frame).parameters if one not in ("source", "name", "folder")]
    _check_options(name, options, allowed)
    try:
        return loader(*arguments, **options)
    except OSError as error:
        raise SamplesError(f"cannot read samples {name}: {error}.") from error


def _call(loader: Callable[..., Samples], name: str, options: dict[str, Any], *arguments: Any) -> Samples:
    """`loader(*arguments, **options)`, with an error that lists the options it has."""
    parameters = list(inspect.signature(loader).parameters)[len(arguments) :]
    names = None if "classes" in parameters else find_classes(options.get("classes"))
    left = {key for key in ("task", "classes") if key not in parameters}
    options = {key: value for key, value in options.items() if key not in left}
    _check_options(name, options, parameters)
    try:
        samples = loader(*arguments, **options)
    except OSError as error:
        raise SamplesError(f"cannot read samples {name}: {error}.") from error
    return samples if names is None else samples.with_classes(names)


def _check_options(name: str, options: dict[str, Any], allowed: list[str]) -> None:
    for option in options:
        if option not in allowed:
            raise SamplesError(f"samples {name} have no option '{option}'; they have {', '.join(allowed) or 'none'}.")
