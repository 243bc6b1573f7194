"""Find out what a source of samples is, and load it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netopsy.errors import SamplesError
from netopsy.samples.arrays import from_digits, from_npz, from_pair
from netopsy.samples.datasets import from_dataset, from_torchvision
from netopsy.samples.folders import from_folder, from_table
from netopsy.samples.samples import Samples

FORMS = "digits, torchvision:NAME, a folder, a .csv of labels, an .npz, a pair of arrays (x, y) or a torch dataset"


def load_samples(
    source: Any, *, split: str | None = None, count: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Labelled images from `source`.

    source: `digits`; `torchvision:NAME`; a path to a folder with a subfolder a class, to a folder with `labels.csv`,
    to a CSV of labels, or to an `.npz` with x and y; a pair of arrays (x, y); a torch dataset of (picture, label).
    split: part of the set, where it has parts.
    count: take so many, stratified by class; the same `seed` takes the same.
    options: further keywords of the source's own loader (`from_folder`, `from_table`, `from_npz`, `from_pair`,
    `from_torchvision`, `from_dataset`).
    Errors: SamplesError.
    """
    samples = _load(source, split, options)
    return samples if count is None else samples.subset(count, seed)


def _load(source: Any, split: str | None, options: dict[str, Any]) -> Samples:
    if isinstance(source, Samples):
        _no_split(source.name, split)
        return _call(lambda: source, source.name, options)
    if isinstance(source, str | Path):
        return _from_name(source, split, options)
    if isinstance(source, tuple | list):
        if len(source) != 2:
            raise SamplesError(f"a {type(source).__name__} of {len(source)} is no pair (x, y) of images and labels.")
        _no_split("a pair of arrays", split)
        return _call(from_pair, "arrays", options, source[0], source[1])
    if hasattr(source, "__getitem__"):
        _no_split("a torch dataset", split)
        return _call(from_dataset, type(source).__name__, options, source)
    raise SamplesError(f"a {type(source).__name__} is no source of samples; give {FORMS}.")


def _from_name(source: str | Path, split: str | None, options: dict[str, Any]) -> Samples:
    name = str(source)
    if name == "digits":
        return _call(from_digits, name, options, split)
    if name.startswith("torchvision:"):
        return _call(from_torchvision, name, options, name.removeprefix("torchvision:"), split)
    path = Path(name).expanduser()
    if os.path.isdir(path):  # not path.is_dir(), which raises on names that no file can have
        return _call(from_folder, name, options, path, split)
    if not os.path.isfile(path):
        raise SamplesError(f"no samples '{name}': it is no file or folder; give {FORMS}.")
    if path.suffix == ".npz":
        return _call(from_npz, name, options, path, split)
    if path.suffix == ".csv":
        _no_split(name, split)
        return _call(from_table, name, options, path)
    raise SamplesError(f"'{name}' is a {path.suffix or 'file'}; give {FORMS}.")


def _no_split(what: str, split: str | None) -> None:
    if split is not None:
        raise SamplesError(f"{what} has no splits; leave split '{split}' out.")


def _call(loader: Callable[..., Samples], name: str, options: dict[str, Any], *arguments: Any) -> Samples:
    """`loader(*arguments, **options)`, with an error that lists the options it has."""
    parameters = list(inspect.signature(loader).parameters)[len(arguments) :]
    for option in options:
        if option not in parameters:
            raise SamplesError(
                f"samples {name} have no option '{option}'; they have {', '.join(parameters) or 'none'}."
            )
    try:
        return loader(*arguments, **options)
    except OSError as error:
        raise SamplesError(f"cannot read samples {name}: {error}.") from error
