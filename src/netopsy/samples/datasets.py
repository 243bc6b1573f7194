"""Samples from torchvision's datasets, torch datasets and DataLoaders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import BatchSampler, IterableDataset

from netopsy.errors import SamplesError, nearest
from netopsy.network.signature import Kind
from netopsy.samples.arrays import TARGETS, as_array
from netopsy.samples.images import ArrayImages, DatasetImages, Images, NamedImages
from netopsy.samples.labels import find_classes, read_targets
from netopsy.samples.records import TextRecords
from netopsy.samples.samples import Samples
from netopsy.samples.series import LazyRecords

MOST_BYTES = 4 * 2**30  # of the batches of an iterable dataset
GENERIC = {"VisionDataset", "ImageFolder", "DatasetFolder"}
ATTRIBUTES = ("targets", "labels", "_labels", "_samples")  # where torchvision's datasets keep labels


def from_dataset(
    dataset: Any,
    name: str | None = None,
    *,
    classes: str | Path | Sequence[str] | None = None,
    workers: int | None = 1,
    label: str | None = "auto",
    kind: Kind | None = None,
    task: Any = None,
) -> Samples:
    """A map-style dataset: of pairs (sample, label), of tuples (inputs..., label), of dicts, or of samples alone.

    A sample: a Pillow image; a uint8 tensor (channel, height, width) or array, which is an image too; a text; or
    tensors and arrays of any other type, which a network takes as they are. label: a whole number, a row of 0 and 1, or
    numbers to give; in dicts under the name `label` ('auto': one of `TARGETS`); None: none.
    workers: how many threads may index the dataset at once. kind: of what the samples are (`vector`, `series`, ...).
    Labels come from an attribute such as `targets` if nothing transforms them; else every item is read once.
    """
    name = name or type(dataset).__name__
    try:
        count = len(dataset)
    except TypeError as error:
        raise SamplesError(f"the dataset {name} has no length; give one with len() and indices.") from error
    if not count:
        raise SamplesError(f"the dataset {name} is empty.")
    return _from_items(_Items(dataset, range(count), label, name), name, classes, workers, kind, task)


def from_loader(
    loader: Any,
    name: str | None = None,
    *,
    classes: str | Path | Sequence[str] | None = None,
    label: str | None = "auto",
    kind: Kind | None = None,
    task: Any = None,
) -> Samples:
    """A torch DataLoader: its dataset through its collate function, in the dataset's order, without what its sampler
    leaves out; of an iterable dataset all its batches, which are kept in memory (at most `MOST_BYTES`).

    Batches are tensors, tuples (inputs..., labels) or mappings by name; the options are those of `from_dataset`.
    """
    dataset = loader.dataset
    name = name or f"DataLoader of {type(dataset).__name__}"
    if isinstance(dataset, IterableDataset):
        rows, total = [], 0
        for batch in loader:
            for item in [batch] if loader.batch_size is None else _rows_of(batch, name):
                total += sum(as_array(one, name).nbytes for one in _tensors(item))
                rows.append(item)
                if total > MOST_BYTES:
                    raise SamplesError(
                        f"{name} gives over {MOST_BYTES // 2**30} GiB; give fewer samples, or a dataset with indices."
                    )
        dataset, order, collate = rows, list(range(len(rows))), None
    else:
        collate = None if loader.batch_size is None and loader.batch_sampler is None else loader.collate_fn
        sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
        if isinstance(sampler, BatchSampler):
            sampler = sampler.sampler
        with torch.random.fork_rng(devices=[]):
            drawn = list(sampler)
        order = sorted(row for one in drawn for row in (one if isinstance(one, list | tuple) else [one]))
    if not len(order):
        raise SamplesError(f"{name} is empty.")
    return _from_items(_Items(dataset, order, label, name, collate), name, classes, None, kind, task)


class _Items:
    """Items by row, parted into inputs by name and a label."""

    def __init__(
        self,
        dataset: Any,
        order: Sequence[int],
        label: str | None,
        name: str,
        collate: Callable[..., Any] | None = None,
    ) -> None:
        self.dataset, self.order, self.label, self.name, self.collate = dataset, order, label, name, collate

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> tuple[dict[str, Any], Any]:
        item = self.dataset[self.order[row]]
        if self.collate is not None:
            (item,) = _rows_of(self.collate([item]), self.name)
        if isinstance(item, Mapping):
            label = next((one for one in TARGETS if one in item), None) if self.label == "auto" else self.label
            if label is not None and label not in item:
                raise SamplesError(f"the items of {self.name} have no '{label}'; they have {', '.join(item)}.")
            return {key: value for key, value in item.items() if key != label}, None if label is None else item[label]
        if isinstance(item, list | tuple):
            inputs, target = (list(item), None) if self.label is None and len(item) < 2 else (list(item[:-1]), item[-1])
            names = ["input"] if len(inputs) == 1 else [f"input_{i}" for i in range(len(inputs))]
            return dict(zip(names, inputs, strict=True)), None if self.label is None else target
        return {"input": item}, None

    def first(self, item: Any) -> Any:
        """Of an item as the dataset gives it, the sample."""
        if isinstance(item, Mapping):
            return next(value for key, value in item.items() if key != self.label and key not in TARGETS)
        return item[0] if isinstance(item, list | tuple) else item


def _from_items(items: _Items, name: str, classes: Any, workers: int | None, kind: Kind | None, task: Any) -> Samples:
    dataset, raw = items.dataset, None
    try:
        raw, label = items[0]
    except SamplesError:
        raise
    except Exception as error:
        raise _unlike(name, error) from error
    sample = next(iter(raw.values()), None)
    if isinstance(sample, int | float) and not hasattr(sample, "shape"):
        raise _unlike(name, TypeError(f"an item is {sample!r}"))
    whole = items.collate is None and isinstance(items.order, range)
    pictures = [field for field, value in raw.items() if _is_picture(value)] if kind is None else []
    several = len(pictures) > 1
    if several and len(pictures) < len(raw) and items.label is not None:
        raise SamplesError(
            f"the items of {name} hold {', '.join(list(raw)[len(pictures) :])} besides {len(pictures)} pictures and "
            "labels, such as which places of a flow are valid, and no score leaves places out; give label=None "
            "(--label none)."
        )
    y, collected = (None, None) if label is None or items.label is None else (_labels(dataset, name, items), None)
    records: Any
    if several:
        fields = {
            field: DatasetImages(items, name, workers, lambda item, field=field: item[0][field])  # type: ignore[misc]
            for field in pictures
        }
        records, y = NamedImages.labelled(fields, name, y)
    elif kind is None and _is_picture(sample):
        plain = isinstance(dataset[0], list | tuple) and len(dataset[0]) == 2 and whole
        records = (
            _images(dataset, name, workers)
            if plain
            else DatasetImages(items, name, workers, lambda item: next(iter(item[0].values())))
        )
    elif isinstance(sample, str):
        if len(raw) > 1:
            raise SamplesError(
                f"the items of {name} have text beside {', '.join(list(raw)[1:])}; give text and labels."
            )
        records = TextRecords([next(iter(items[row][0].values())) for row in range(len(items))], name)
    else:
        records = _lazy(items, name, kind, workers)
    places = (
        next(iter(records.form.fields.values())).shape[1:]
        if records.kind == "tokens" and collected is None and hasattr(records, "form")
        else ()
    )
    given = find_classes(classes)
    labels, names = read_targets(y, given, name, task, places)
    if given is None and labels is not None and names:
        own = _names(dataset, labels)
        names = names if own is None else own
    return Samples(name, records, labels, names)


def _is_picture(sample: Any) -> bool:
    """Whether it is an image, or an array that is to be one; other types than uint8 a network takes as they are."""
    if isinstance(sample, torch.Tensor):
        return sample.dtype == torch.uint8 and sample.ndim in (2, 3)
    return isinstance(sample, Image.Image) or (
        isinstance(sample, np.ndarray) and sample.dtype == np.uint8 and sample.ndim in (2, 3)
    )


def _lazy(items: _Items, name: str, kind: Kind | None, workers: int | None) -> LazyRecords:
    """Arrays that are read from the dataset when they are asked for; one pass finds the longest of them."""

    def item(row: int) -> dict[str, NDArray[Any]]:
        return {field: np.asarray(as_array(value, name)) for field, value in items[row][0].items()}

    first = item(0)
    for field, values in first.items():
        if values.dtype.kind not in "fiub":
            raise SamplesError(
                f"'{field}' of {name} is a {type(items[0][0][field]).__name__}; give tensors or arrays of numbers."
            )
    shapes = {field: values.shape for field, values in first.items()}
    lengths = np.zeros(len(items), np.int64)
    for row in range(len(items)):
        one = item(row)
        if one.keys() != shapes.keys() or any(len(one[f].shape) != len(shapes[f]) for f in shapes):
            raise SamplesError(f"item {row} of {name} has other inputs, or other axes, than item 0; give all the same.")
        shapes = {field: tuple(map(max, shapes[field], one[field].shape)) for field in shapes}
        mask = one.get("attention_mask")
        size = next(iter(one.values())).shape
        lengths[row] = int(mask.sum()) if mask is not None else size[-1] if size else 1
    name_of_first, shape = next(iter(shapes.items()))
    whole = first[name_of_first].dtype.kind in "iu" and len(shape) == 1
    longest = shape[-1] if shape else 1
    same = bool((lengths == longest).all())
    by_shape: Kind = (
        "tokens" if whole else "vector" if len(shape) < 2 and same else "series" if len(shape) < 3 else "array"
    )
    dtypes = {field: values.dtype for field, values in first.items()}
    return LazyRecords(
        item, len(items), shapes, dtypes, kind or by_shape, None if same else lengths, name, workers=workers
    )


def _rows_of(batch: Any, name: str) -> list[Any]:
    """The items of a batch."""
    if isinstance(batch, Mapping):
        count = min(len(value) for value in batch.values())
        return [{key: value[row] for key, value in batch.items()} for row in range(count)]
    if isinstance(batch, list | tuple):
        return list(zip(*batch, strict=True))
    if isinstance(batch, torch.Tensor | np.ndarray):
        return list(batch)
    raise SamplesError(f"{name} gives batches of {type(batch).__name__}; give tensors, tuples or mappings of them.")


def _tensors(item: Any) -> list[Any]:
    return (
        list(item.values()) if isinstance(item, Mapping) else list(item) if isinstance(item, list | tuple) else [item]
    )


def _unlike(name: str, error: Exception) -> SamplesError:
    return SamplesError(
        f"the items of {name} are not (picture, label) with labels of one kind: {_first_sentence(error)}."
    )


def from_torchvision(
    which: str,
    split: str | None,
    *,
    root: str | Path = "data",
    download: bool = False,
    classes: str | Path | Sequence[str] | None = None,
    variant: str | None = None,
    label: str | None = "auto",
) -> Samples:
    """The dataset `which` of torchvision, by its class name, in the folder `root`.

    split: 'train' or 'test' (the default, where there is one), or what the dataset calls its parts.
    label: None: without labels. variant: EMNIST's parts (balanced, byclass, ...), which torchvision calls splits.
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
        return from_dataset(dataset, name, classes=classes, workers=None, label=label)
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


def _labels(dataset: Any, name: str, items: _Items) -> NDArray[np.generic]:
    """All labels, (n,) or (n, ...): from an attribute that agrees with the first item, or from every item."""
    try:
        first = np.asarray(as_array(items[0][1], name))
        whole = items.collate is None and isinstance(items.order, range)
        if whole and all(getattr(dataset, hook, None) is None for hook in ("target_transform", "transforms")):
            for candidate in (getattr(dataset, attribute, None) for attribute in ATTRIBUTES):
                if isinstance(candidate, list | np.ndarray | torch.Tensor) and len(candidate) == len(dataset):
                    pairs = isinstance(candidate[0], tuple) and len(candidate[0]) == 2
                    values = np.asarray([pair[1] for pair in candidate] if pairs else candidate)
                    if np.array_equal(values[0], first):
                        return values
        return np.array([np.asarray(as_array(items[row][1], name)) for row in range(len(items))])
    except SamplesError:
        raise
    except Exception as error:
        raise _unlike(name, error) from error


def _names(dataset: Any, labels: NDArray[np.generic]) -> tuple[str, ...] | None:
    """The dataset's own class names, if it has enough."""
    names = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)
    if names is None and isinstance(features, Mapping):  # a Hugging Face data set
        names = next((one.names for one in features.values() if getattr(one, "names", None)), None)
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
