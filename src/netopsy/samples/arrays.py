"""Samples from arrays: a pair, an `.npz` without pickled objects, the built-in digits."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from netopsy.errors import SamplesError
from netopsy.samples.images import ArrayImages
from netopsy.samples.labels import check_labels, find_classes, name_classes
from netopsy.samples.pixels import Pixels
from netopsy.samples.samples import Samples


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


MOST_CHANNELS = 64
DIGIT_SPLITS = ("train", "test", "all")


def from_pair(x: Any, y: Any, name: str = "arrays", *, classes: str | Path | Sequence[str] | None = None) -> Samples:
    """Pictures `x` (n, height, width[, channel]) and labels `y` (n,) or (n, classes), as arrays or tensors.

    x: uint8, or floats in 0..1. y: whole numbers, or 0 and 1 where an image may have several labels.
    """
    labels = check_labels(as_array(y, name), name)
    pixels = check_pixels(as_array(x, name), name)
    if len(pixels) != len(labels):
        raise SamplesError(f"{name} has {len(pixels):,} images and {len(labels):,} labels; give one label an image.")
    if not len(pixels):
        raise SamplesError(f"{name} holds no images.")
    return Samples(name, ArrayImages(pixels), labels, name_classes(labels, find_classes(classes), name))


def check_pixels(x: NDArray[np.generic], name: str) -> Pixels:
    """Pixels (n, height, width, channel), uint8, or float32 in 0..255 where the given floats are not 8-bit ones."""
    shape, description = x.shape, f"the images of {name} are {x.dtype} of shape {x.shape}"
    first = x.ndim == 4 and shape[1] <= 4 < min(shape[2:])  # the channels, as torch has them
    if x.ndim not in (3, 4) or 0 in shape[1:] or first or (x.ndim == 4 and shape[3] > MOST_CHANNELS):
        hint = "; move the channels last" if first or (x.ndim == 4 and shape[1] in (1, 3, 4)) else ""
        raise SamplesError(
            f"{description}; give (n, height, width) or (n, height, width, channels) with 1, 3 or 4 channels, or as "
            f"many as the network takes (at most {MOST_CHANNELS}){hint}."
        )
    x = x[..., None] if x.ndim == 3 else x
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f":
        raise SamplesError(f"{description}; give uint8, or floats in 0..1.")
    if not np.isfinite(x).all():
        raise SamplesError(f"the images of {name} hold NaN or infinity; give floats in 0..1.")
    if x.size and (x.min() < 0 or x.max() > 1):
        raise SamplesError(
            f"the images of {name} hold floats from {x.min():.4g} to {x.max():.4g}; give 0..1, or uint8."
        )
    pixels = x.astype(np.float32) * np.float32(255)
    rounded = np.rint(pixels)
    return rounded.astype(np.uint8) if np.abs(pixels - rounded).max(initial=0) < 1e-3 else pixels


def from_npz(
    path: Path,
    split: str | None,
    *,
    x: str | None = None,
    y: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
) -> Samples:
    """Arrays in an `.npz` without pickled objects: `x` and `y`, or `x_SPLIT` and `y_SPLIT` (None: test).

    x, y: other names of the two. An array `classes` of text names the classes unless `classes` does.
    """
    _, (images, labels), words = read_npz(path, lambda stored: _array_names(stored, split, x, y, path), "images")
    classes = words if classes is None else classes
    return from_pair(images, labels, path.name + (f"[{split}]" if split else ""), classes=classes)


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


def _array_names(stored: set[str], split: str | None, x: str | None, y: str | None, path: Path) -> tuple[str, str]:
    """The names of the images' and of the labels' array."""
    bare = split is None and (x is not None or "x" in stored)
    suffix = "" if bare else f"_{split or 'test'}"
    names = (x or "x") + suffix, (y or "y") + suffix
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
