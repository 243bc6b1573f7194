"""Samples from arrays: a pair, several by name, an `.npz` or `.npy` without pickled objects, the built-in digits."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from netopsy.errors import SamplesError, nearest
from netopsy.network.signature import Kind
from netopsy.samples.images import ArrayImages
from netopsy.samples.labels import find_classes, read_targets
from netopsy.samples.pixels import MOST_CHANNELS, Pixels
from netopsy.samples.records import ArrayRecords, TextRecords
from netopsy.samples.samples import NOUNS, Samples


def read_npz(
    path: Path, choose: Callable[[set[str]], Sequence[str]], what: str
) -> tuple[Sequence[str], list[NDArray[np.generic]], tuple[str, ...] | None]:
    """The names that `choose` takes of those held, their arrays, and the text of an array `classes` if there is one.

    what: the arrays are expected to hold, for the error. Raises SamplesError for a file that cannot be read.
    """
    if not zipfile.is_zipfile(path):
        raise SamplesError(f"{path} is damaged or no .npz file; write one with numpy.savez(path, x={what}, y=labels).")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = choose(set(file.files))
            arrays = [file[name] for name in names]
            classes = tuple(str(word) for word in file["classes"].ravel()) if "classes" in file.files else None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise unreadable(path, error) from error
    return names, arrays, classes


def unreadable(path: Path, error: Exception) -> SamplesError:
    """What numpy's error on a file means."""
    if "pickle" in str(error) or "object" in str(error).lower():
        return SamplesError(f"{path} holds pickled objects, which Netopsy never loads; save plain arrays instead.")
    reason = " ".join(str(error).split()) or type(error).__name__
    return SamplesError(f"{path} is damaged or no {path.suffix} file ({reason.rstrip('.')}); write it again.")


DIGIT_SPLITS = ("train", "test", "all")
KINDS = ("image", "tokens", "series", "vector", "array")
TARGETS = ("y", "label", "labels", "target", "targets")

Bounds = tuple[float, float] | None


def from_pair(
    x: Any,
    y: Any = None,
    name: str = "arrays",
    *,
    classes: str | Path | Sequence[str] | None = None,
    kind: str | None = None,
    range: Bounds = None,
    lengths: Any = None,
    rate: int | None = None,
    task: Any = None,
) -> Samples:
    """Samples `x` (n, ...) and labels `y`, as arrays, tensors or lists; y=None: without labels.

    x: pictures (n, height, width[, channel]), uint8, uint16, or floats in 0..1; rows of floats (n, columns), of whole
        numbers (n, tokens), of int16 (n, values), which are sound; texts; any other number of axes, as it is.
    y: see `read_targets`. kind: what the samples are (`KINDS`), where their shape says otherwise.
    range: (low, high) of the values that become 0 and 1; None: 0..1 of floats, 0..255 of uint8, 0..65535 of uint16.
    lengths: (n,), how many tokens or values along the last axis of each sample are its own, of samples that are padded.
    rate: of a series, in values a second.
    """
    values = None if y is None else as_array(y, name)
    if lengths is not None:
        lengths = np.asarray(as_array(lengths, name))
    x = _as_samples(x, name)
    if isinstance(x, list):
        labels, names = read_targets(values, find_classes(classes), name, task)
        return Samples(name, TextRecords(x, name), labels, names)
    kind = kind or _guess_kind(x, lengths)
    if kind not in KINDS:
        raise SamplesError(f"no kind of samples '{kind}'; nearest: {nearest(kind, KINDS, 1)}; all: {', '.join(KINDS)}.")
    places = x.shape[1:] if kind in ("tokens", "series") else ()
    labels, names = read_targets(values, find_classes(classes), name, task, places)
    records: Any
    if kind == "image":
        records = ArrayImages(check_pixels(x, name, range))
    else:
        records = _array_records({"input": x}, kind, name, range, lengths, rate)
    if labels is not None and len(records) != len(labels):
        noun = NOUNS.get(kind, "sample")
        raise SamplesError(f"{name} has {len(records):,} {noun}s and {len(labels):,} labels; give one label each.")
    if not len(records):
        raise SamplesError(f"{name} holds no {NOUNS.get(kind, 'sample')}s.")
    return Samples(name, records, labels, names)


def from_fields(
    fields: Mapping[str, Any],
    name: str = "arrays",
    *,
    label: str | None = "auto",
    classes: str | Path | Sequence[str] | None = None,
    kind: str | None = None,
    range: Bounds = None,
    lengths: Any = None,
    rate: int | None = None,
    task: Any = None,
) -> Samples:
    """Arrays by the names of a network's inputs, each (n, ...); `label` names the one that holds labels.

    label: 'auto' takes `y`, `label`, `labels`, `target` or `targets` where there is one; None takes none.
    Tokens are as long as their `attention_mask` says, if there is one. The rest is as in `from_pair`.
    """
    label = next((one for one in TARGETS if one in fields), None) if label == "auto" else label
    if label is not None and label not in fields:
        raise SamplesError(f"{name} has no array '{label}'; it has {', '.join(fields)}; give label=NAME, or None.")
    y = None if label is None else fields[label]
    inputs = {field: _as_samples(values, f"{field} of {name}") for field, values in fields.items() if field != label}
    if len(inputs) == 1:
        (x,) = inputs.values()
        return from_pair(x, y, name, classes=classes, kind=kind, range=range, lengths=lengths, rate=rate, task=task)
    text = next((field for field, values in inputs.items() if isinstance(values, list)), None)
    if text is not None:
        raise SamplesError(f"'{text}' of {name} is text beside other inputs; give text alone, or arrays of numbers.")
    arrays = {field: values for field, values in inputs.items() if not isinstance(values, list)}
    mask = arrays.get("attention_mask")
    if lengths is None and mask is not None and mask.ndim == 2 and len({len(array) for array in arrays.values()}) == 1:
        lengths = mask.astype(bool).sum(1)
    first = next(iter(arrays.values()), np.zeros((0, 1)))
    kind = kind or ("array" if first.ndim in (3, 4) else _guess_kind(first, lengths))
    records = _array_records(arrays, kind, name, range, None if lengths is None else np.asarray(lengths), rate)
    values = None if y is None else as_array(y, name)
    labels, names = read_targets(values, find_classes(classes), name, task, first.shape[1:] if kind == "tokens" else ())
    return Samples(name, records, labels, names)


def _as_samples(x: Any, name: str) -> NDArray[Any] | list[str]:
    """Texts as a list; numbers as an array, of which each sample has at least one axis."""
    values = as_array(x, name)
    if values.dtype.kind in "UT" or (values.dtype.kind == "O" and values.ndim == 1 and isinstance(values[0], str)):
        if values.ndim != 1:
            raise SamplesError(f"{name} is text of shape {values.shape}; give numbers, or one text a sample.")
        return values.tolist()
    return values[:, None] if values.ndim == 1 else values


def _guess_kind(x: NDArray[Any], lengths: Any) -> str:
    axes, whole = x.ndim - 1, x.dtype.kind in "iu" and x.dtype != np.int16
    if lengths is not None:
        return "tokens" if whole and axes == 1 else "series"
    if axes == 1 and x.dtype == np.int16:
        return "series"
    if axes == 1 and x.dtype != np.uint8:
        return "tokens" if whole and x.shape[1] > 1 else "vector"
    return "array" if axes > 3 else "image"


def _array_records(
    fields: Mapping[str, NDArray[Any]], kind: str, name: str, range: Bounds, lengths: Any, rate: int | None
) -> ArrayRecords:
    """The arrays as what a network takes: sound of whole numbers in -1..1, other 8-bit values in 0..1."""
    first = next(iter(fields.values()), None)
    if first is None:
        raise SamplesError(f"{name} has no arrays beside its labels; give the network's inputs by name.")
    if kind == "tokens" and (first.dtype.kind not in "iu" or first.min(initial=0) < 0):
        raise SamplesError(f"the tokens of {name} are {first.dtype} from {first.min()}; give whole numbers from 0.")
    scale = None if kind == "tokens" else check_range(range, name)
    if scale is None and kind == "series" and first.dtype.kind in "iu":
        half = 2.0 ** (8 * first.dtype.itemsize - 1)
        scale = (0.0, half) if first.dtype.kind == "i" else (half, 2 * half)
    elif scale is None and first.dtype == np.uint8 and kind == "array":
        scale = (0.0, 255.0)
    if lengths is not None:
        longest = first.shape[-1]
        if lengths.shape != (len(first),) or lengths.dtype.kind not in "iu":
            raise SamplesError(
                f"the lengths of {name} are {lengths.dtype} of shape {lengths.shape}; give one whole number a sample."
            )
        if lengths.size and not 1 <= lengths.min() <= lengths.max() <= longest:
            raise SamplesError(
                f"the lengths of {name} go from {lengths.min()} to {lengths.max()}; its samples are {longest} long."
            )
        lengths = None if (lengths == longest).all() else lengths.astype(np.int64)
    return ArrayRecords(fields, cast(Kind, kind), lengths, name, scale=scale, rate=rate)


def check_range(range: Any, name: str) -> tuple[float, float] | None:
    """(low, high) as two finite floats of which the second is larger; None stays None."""
    if range is None:
        return None
    try:
        low, high = map(float, range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (np.isfinite([low, high]).all() and low < high):
        raise SamplesError(f"range {range!r} of {name} must be two numbers, low,high, the second larger.")
    return low, high


def check_pixels(x: NDArray[np.generic], name: str, range: Bounds = None) -> Pixels:
    """Pixels (n, height, width, channel), uint8, or float32 in 0..255 where the values are not 8-bit ones.

    range: (low, high) of the values that become 0 and 255.
    """
    shape, description = x.shape, f"the images of {name} are {x.dtype} of shape {x.shape}"
    first = x.ndim == 4 and shape[1] <= 4 < min(shape[2:])  # the channels, as torch has them
    if x.ndim not in (3, 4) or 0 in shape[1:] or first or (x.ndim == 4 and shape[3] > MOST_CHANNELS):
        hint = "; move the channels last" if first or (x.ndim == 4 and shape[1] in (1, 3, 4)) else ""
        other = "kind='vector' for rows" if x.ndim == 2 else "kind='array' for what are no images"
        raise SamplesError(
            f"{description}; give (n, height, width) or (n, height, width, channels) with 1, 3 or 4 channels, or as "
            f"many as the network takes (at most {MOST_CHANNELS}){hint}, or {other}."
        )
    x = x[..., None] if x.ndim == 3 else x
    bounds = check_range(range, name)
    if bounds is None and x.dtype == np.uint16:
        bounds = (0.0, 65535.0)
    if x.dtype == np.uint8 and bounds is None:
        return x
    if x.dtype.kind not in ("f" if bounds is None else "fiu"):
        raise SamplesError(f"{description}; give uint8, or floats in 0..1, or range=(low, high) of the values.")
    if not np.isfinite(x).all():
        raise SamplesError(f"the images of {name} hold NaN or infinity; give floats in 0..1.")
    low, high = bounds or (0.0, 1.0)
    if x.size and (x.min() < low or x.max() > high):
        wanted = f"the range given is {low:g} to {high:g}" if range else "give 0..1, or uint8, or range=(low, high)"
        raise SamplesError(f"the images of {name} hold {_numbers(x)} from {x.min():.4g} to {x.max():.4g}; {wanted}.")
    pixels = x.astype(np.float32)
    if (low, high) != (0.0, 1.0):
        pixels = (pixels - np.float32(low)) / np.float32(high - low)
    pixels *= np.float32(255)
    rounded = np.rint(pixels)
    return rounded.astype(np.uint8) if np.abs(pixels - rounded).max(initial=0) < 1e-3 else pixels


def _numbers(x: NDArray[np.generic]) -> str:
    return "floats" if x.dtype.kind == "f" else "whole numbers"


def from_npz(
    path: Path,
    split: str | None,
    *,
    x: str | None = None,
    y: str | None = "auto",
    classes: str | Path | Sequence[str] | None = None,
    kind: str | None = None,
    range: Bounds = None,
    rate: int | None = None,
    task: Any = None,
) -> Samples:
    """Arrays in an `.npz` without pickled objects: `x` and `y`, or `x_SPLIT` and `y_SPLIT` (None: test).

    x, y: other names of the two; y=None: without labels, as where there is `x` alone. Arrays `length` or `lengths` (n,)
    say how long the samples are, `rate` how many values of sound make a second. An array `classes` of text names the
    classes unless `classes` does. The rest is as in `from_pair`.
    """
    given = y if y != "auto" else None

    def choose(stored: set[str]) -> list[str]:
        names = list(_array_names(stored, split, x, given, path, labelled=y is not None))
        suffix = "" if names[0] in ("x", x) else f"_{split or 'test'}"
        more = (f"length{suffix}", f"lengths{suffix}", "rate")
        return [*names, *(name for name in more if name in stored and name not in names)]

    names, arrays, words = read_npz(path, choose, "images")
    held = dict(zip(names, arrays, strict=True))
    labelled = len(names) > 1 and not names[1].startswith(("length", "rate"))
    lengths = next(
        (array for name, array in held.items() if name.startswith("length") and array is not arrays[0]), None
    )
    stored_rate = int(held["rate"]) if "rate" in held and held["rate"].size == 1 else None
    if rate is not None and stored_rate is not None and rate != stored_rate:
        raise SamplesError(f"{path} holds sound of {stored_rate:,} Hz and not of {rate:,}; leave rate out.")
    return from_pair(
        arrays[0],
        arrays[1] if labelled else None,
        path.name + (f"[{split}]" if split else ""),
        classes=words if classes is None else classes,
        kind=kind,
        range=range,
        lengths=lengths,
        rate=rate or stored_rate,
        task=task,
    )


def from_npy(
    path: Path,
    *,
    labels: str | Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    kind: str | None = None,
    range: Bounds = None,
    rate: int | None = None,
    task: Any = None,
) -> Samples:
    """An array (n, ...) in a `.npy`, and `labels` in another; see `from_pair`."""
    x, y = (None if one is None else read_npy(Path(one)) for one in (path, labels))
    return from_pair(x, y, path.name, classes=classes, kind=kind, range=range, rate=rate, task=task)


def read_npy(path: Path) -> NDArray[Any]:
    """The array in a `.npy` without pickled objects."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error


def from_digits(split: str | None) -> Samples:
    """The 1,797 handwritten digits of scikit-learn, 8x8 with values 0..16, as 32x32 gray uint8.

    split: 'train' (1,257), 'test' (540, the default), stratified with random state 0, or 'all'.
    """
    split = split or "test"
    if split not in DIGIT_SPLITS:
        raise SamplesError(f"digits have no split '{split}'; give {', '.join(DIGIT_SPLITS)}.")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in small]
    labels = digits.target.astype(np.int64)
    rows = range(len(labels))
    train, test = train_test_split(rows, test_size=540, stratify=labels, random_state=0)
    chosen = np.sort({"train": train, "test": test, "all": list(rows)}[split])
    return from_pair(np.stack(large)[chosen], labels[chosen], f"digits[{split}]")


def _array_names(
    stored: set[str], split: str | None, x: str | None, y: str | None, path: Path, *, labelled: bool
) -> tuple[str, ...]:
    """The names of the samples' array and of the labels', if there are any."""
    bare = split is None and (x is not None or "x" in stored)
    suffix = "" if bare else f"_{split or 'test'}"
    names: tuple[str, ...] = (x or "x") + suffix, (y or "y") + suffix
    if not labelled or (
        y is None and names[0] in stored and stored <= {names[0], "length", "lengths", "rate", "classes"}
    ):
        names = names[:1]
    missing = [name for name in names if name not in stored]
    if missing:
        raise SamplesError(
            f"{path} has no array '{missing[0]}'; it holds {', '.join(sorted(stored)) or 'nothing'}; "
            "give x=NAME and y=NAME, or another split."
        )
    return names


def as_array(values: Any, name: str) -> NDArray[np.generic]:
    """`values` as an array: a tensor, an array, or lists of numbers or text."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise SamplesError(f"{name} has rows of differing lengths; give numbers of one shape.") from error
