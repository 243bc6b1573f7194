"""Samples from torchvision's datasets and from torch datasets."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netopsy.errors import SamplesError, nearest
from netopsy.samples.images import ArrayImages, DatasetImages, Images
from netopsy.samples.labels import check_labels, find_classes, name_classes
from netopsy.samples.samples import Samples

GENERIC = {"VisionDataset", "ImageFolder", "DatasetFolder"}
ATTRIBUTES = ("targets", "labels", "_labels", "_samples")  # where torchvision's datasets keep labels


def from_dataset(
    dataset: Any, name: str | None = None, *, classes: str | Path | Sequence[str] | None = None, workers: int | None = 1
) -> Samples:
    """A map-style dataset of (picture, label): Pillow images, or uint8 tensors (channel, height, width), or arrays.

    label: a whole number, or a row of 0 and 1. workers: how many threads may index the dataset at once.
    Labels come from an attribute such as `targets` if nothing transforms them; else every item is read once.
    """
    name = name or type(dataset).__name__
    try:
        count = len(dataset)
    except TypeError as error:
        raise SamplesError(f"the dataset {name} has no length; give one with len() and indices.") from error
    if not count:
        raise SamplesError(f"the dataset {name} is empty.")
    labels = check_labels(_labels(dataset, name), name)
    class_names = find_classes(classes) or _names(dataset, labels)
    return Samples(name, _images(dataset, name, workers), labels, name_classes(labels, class_names, name))


def from_torchvision(
    which: str,
    split: str | None,
    *,
    root: str | Path = "data",
    download: bool = False,
    classes: str | Path | Sequence[str] | None = None,
    variant: str | None = None,
) -> Samples:
    """The dataset `which` of torchvision, by its class name, in the folder `root`.

    split: 'train' or 'test' (the default, where there is one), or what the dataset calls its parts.
    variant: EMNIST's parts (balanced, byclass, ...), which torchvision calls splits.
    """
    from torchvision import datasets

    allowed = {n for n in dir(datasets) if inspect.isclass(getattr(datasets, n)) and n not in GENERIC}
    if which not in allowed:
        raise SamplesError(f"no dataset '{which}' in torchvision; nearest: {nearest(which, sorted(allowed))}.")
    make = getattr(datasets, which)
    name = f"torchvision:{which}" + (f"[{split}]" if split else "")
    takes = set(inspect.signature(make).parameters)
    if "kwargs" in takes:  # EMNIST and QMNIST pass on to MNIST
        takes |= {"train", "download"}
    arguments: dict[str, Any] = {"root": str(root)} if "root" in takes else {}
    if "download" in takes:
        arguments["download"] = download
    if which == "EMNIST":
        arguments["split"] = variant or "balanced"
    elif variant is not None:
        raise SamplesError(f"{name} has no variants; leave variant out.")
    parts = takes & {"train", "split", "image_set"}
    errors: list[Exception] = []
    for chosen in [split] if split or not parts else ["test", "val", None]:
        try:
            dataset = make(**arguments, **_part(takes, chosen, name))
        except (ValueError, KeyError, AssertionError) as error:  # a split that it does not have
            errors.append(error)
            continue
        except (RuntimeError, OSError, ImportError) as error:
            raise SamplesError(
                f"{name} cannot be loaded from {root} ({_first_sentence(error)}); give root=FOLDER, or download=True."
            ) from error
        return from_dataset(dataset, name, classes=classes, workers=None)
    raise SamplesError(f"{name} cannot be loaded: {_first_sentence(errors[0])}.") from errors[0]


def _part(takes: set[str], split: str | None, name: str) -> dict[str, Any]:
    """The argument by which a dataset that `takes` these chooses its part; {} for its own default."""
    if split is None:
        return {}
    if "train" in takes:
        if split not in ("train", "test"):
            raise SamplesError(f"{name} has no split '{split}'; give train or test.")
        return {"train": split == "train"}
    for argument in ("split", "image_set"):
        if argument in takes:
            return {argument: split}
    raise SamplesError(f"{name} has no splits; leave split '{split}' out.")


def _labels(dataset: Any, name: str) -> NDArray[np.generic]:
    """All labels, (n,) or (n, classes): from an attribute that agrees with the first item, or from every item."""
    try:
        first = np.asarray(dataset[0][1])
        if all(getattr(dataset, hook, None) is None for hook in ("target_transform", "transforms")):
            for candidate in (getattr(dataset, attribute, None) for attribute in ATTRIBUTES):
                if isinstance(candidate, list | np.ndarray | torch.Tensor) and len(candidate) == len(dataset):
                    pairs = isinstance(candidate[0], tuple) and len(candidate[0]) == 2
                    values = np.asarray([pair[1] for pair in candidate] if pairs else candidate)
                    if np.array_equal(values[0], first):
                        return values
        return np.array([np.asarray(dataset[row][1]) for row in range(len(dataset))])
    except Exception as error:
        raise SamplesError(
            f"the items of {name} are not (picture, label) with labels of one kind: {_first_sentence(error)}."
        ) from error


def _names(dataset: Any, labels: NDArray[np.generic]) -> tuple[str, ...] | None:
    """The dataset's own class names, if it has enough."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    needed = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return tuple(names) if len(names) >= needed else None


def _images(dataset: Any, name: str, workers: int | None) -> Images:
    """The dataset's own array where its items are that array's rows, else the dataset itself."""
    general = DatasetImages(dataset, name, workers)
    data = getattr(dataset, "data", None)
    if type(dataset).__module__.startswith("torchvision.datasets") and isinstance(data, np.ndarray | torch.Tensor):
        array = np.asarray(data)
        array = array[..., None] if array.ndim == 3 else array
        plain = all(getattr(dataset, hook, None) is None for hook in ("transform", "transforms"))
        if plain and array.dtype == np.uint8 and array.ndim == 4 and np.array_equal(array[0], general.read(0)):
            return ArrayImages(array)
    return general


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
