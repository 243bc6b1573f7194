"""Stanford Dogs as it is unpacked: a folder of images a breed, and the parts as MATLAB files (Khosla et al., 2011)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netopsy.errors import SamplesError
from netopsy.samples.images import FileImages
from netopsy.samples.samples import Samples

PARTS = ("train", "test")
_LARGEST = 64 * 2**20  # bytes of a list; the published ones have less than one MiB


def is_stanford_dogs(folder: Path) -> bool:
    """Whether `folder` holds `Images` and the lists of its parts, in `lists` or beside it."""
    return (folder / "Images").is_dir() and any(_list_of(folder, part) is not None for part in PARTS)


def from_stanford_dogs(folder: Path, split: str | None) -> Samples:
    """The images that `train_list.mat` or `test_list.mat` names, with their breeds; without a split, both.

    `Images/n02085620-Chihuahua/n02085620_10074.jpg` is of the class `Chihuahua`; classes are in the order of the
    labels, which the lists count from 1. The boxes of `Annotation` are not used: as in Nowak & Corso, images are whole.
    Errors: SamplesError for a list that is missing or damaged, or names what is not in `Images`.
    """
    if split is not None and split not in PARTS:
        raise SamplesError(f"{folder} has the parts train and test and no split '{split}'; give one of the two.")
    paths: list[Path] = []
    labels: list[int] = []
    for part in PARTS if split is None else (split,):
        path = _list_of(folder, part)
        if path is None:
            raise SamplesError(f"{folder} has no {part}_list.mat; unpack lists.tar beside Images.")
        files, numbers = _read_list(path)
        paths += [_inside(folder / "Images", name, path) for name in files]
        labels += numbers
    breeds = _breeds(paths, labels, folder)
    name = (folder.name or str(folder)) + (f"[{split}]" if split else "")
    return Samples(name, FileImages(paths), np.array(labels, np.int64) - 1, breeds)


def _list_of(folder: Path, part: str) -> Path | None:
    places = (folder / "lists" / f"{part}_list.mat", folder / f"{part}_list.mat")
    return next((path for path in places if path.is_file()), None)


def _read_list(path: Path) -> tuple[list[str], list[int]]:
    """The files of a list, as it names them, and their labels from 1."""
    from scipy.io import loadmat

    if path.stat().st_size > _LARGEST:
        raise SamplesError(f"'{path}' has {path.stat().st_size:,} bytes, more than any list of Stanford Dogs.")
    try:
        content = loadmat(path, variable_names=["file_list", "labels"])
        files = [_text(cell) for cell in np.asarray(content["file_list"]).reshape(-1)]
        numbers = _whole(content["labels"])
    except Exception as error:
        # scipy has no error of its own for a file of another kind: it raises any of a dozen
        reason = str(error).strip().splitlines()[0][:120].rstrip(".") if str(error).strip() else type(error).__name__
        raise SamplesError(
            f"'{path}' is no list of Stanford Dogs ({reason}); it must hold file_list, a cell of names, and labels, "
            "whole numbers from 1. Unpack lists.tar again."
        ) from error
    if not files or len(files) != len(numbers):
        raise SamplesError(f"'{path}' names {len(files)} files and {len(numbers)} labels; unpack lists.tar again.")
    return files, numbers


def _text(cell: Any) -> str:
    """The one text in a cell of MATLAB's."""
    value = np.asarray(cell)
    if value.size != 1 or value.dtype.kind != "U":
        raise ValueError("a cell of file_list is no text")
    return str(value.reshape(-1)[0])


def _whole(labels: Any) -> list[int]:
    values: NDArray[Any] = np.asarray(labels).reshape(-1)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values % 1 != 0).any() or (values < 1).any():
        raise ValueError("labels are no whole numbers from 1")
    return [int(value) for value in values]


def _inside(images: Path, name: str, source: Path) -> Path:
    """The image called `name`, which is a breed's folder and a file in it; nothing outside of `images` is opened."""
    parts = PurePosixPath(name).parts
    path = images.joinpath(*parts)
    plain = len(parts) == 2 and ".." not in parts and "\\" not in name and not PurePosixPath(name).is_absolute()
    if not plain or not path.resolve().is_relative_to(images.resolve()):
        raise SamplesError(f"'{source}' names '{name[:100]}', which is no file in a breed's folder of {images}.")
    if not path.is_file():
        raise SamplesError(f"'{source}' names '{name[:100]}', which is not in {images}; unpack images.tar there.")
    return path


def _breeds(paths: list[Path], labels: list[int], folder: Path) -> tuple[str, ...]:
    """The breeds in the order of the labels; a label without images is called by its number."""
    names: dict[int, str] = {}
    for path, label in zip(paths, labels, strict=True):
        if names.setdefault(label, path.parent.name) != path.parent.name:
            raise SamplesError(
                f"the lists of {folder} give label {label} to {names[label]} and to {path.parent.name}; unpack "
                "lists.tar again."
            )
    if max(labels) > 10 * len(paths):
        raise SamplesError(
            f"the lists of {folder} have a label {max(labels)} for {len(paths)} images; unpack them again."
        )
    short = {label: name.partition("-")[2] or name for label, name in names.items()}
    twice = {name for name, count in Counter(short.values()).items() if count > 1}
    known = {label: names[label] if name in twice else name for label, name in short.items()}
    return tuple(known.get(label, str(label)) for label in range(1, max(labels) + 1))
