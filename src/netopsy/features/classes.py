"""Labels of feature vectors and their classes: read from numbers or text, cut to the classes that occur, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netopsy.errors import SamplesError
from netopsy.samples.labels import checked_labels, given_classes, indices_of, named
from netopsy.samples.strata import Labels
from netopsy.wording import listing


def read_labels(
    values: NDArray[np.generic], classes: str | Path | Sequence[str] | None, name: str
) -> tuple[Labels, tuple[str, ...]]:
    """Labels as Features hold them, and the names of the classes.

    values: whole numbers (n,), text (n,), or 0 and 1 (n, classes). Text is numbered in alphabetical order without
    `classes`; text of whole numbers is read as numbers.
    """
    given = given_classes(classes)
    if values.dtype.kind == "O" and values.ndim == 1 and all(isinstance(word, str) for word in values):
        values = values.astype(str)
    if values.dtype.kind in "UT" and values.ndim == 1:
        words = [str(word) for word in values]
        if "" in words:
            raise SamplesError(f"{name} has no label at row {words.index('')}; give every vector one.")
        return indices_of(words, given, name)
    if values.dtype.kind == "f" and values.ndim == 1 and not np.isfinite(values).all():
        raise SamplesError(f"the labels of {name} hold NaN or infinity; give every vector one.")
    if values.dtype.kind == "b" and values.ndim == 1:
        values = values.astype(np.int64)
    labels = checked_labels(values, name)
    if not len(labels):
        raise SamplesError(f"{name} holds no vectors; give two or more of each class.")
    if given is not None and labels.ndim == 1 and labels.max() >= len(given):
        raise SamplesError(
            f"{name} has the label {labels.max()}, but {len(given)} class names are given (labels 0 to "
            f"{len(given) - 1}); give a name for each class."
        )
    if labels.ndim == 1 and given is None:  # identifiers, such as 1-based or sparse ones, need no names in between
        kept, labels = np.unique(labels, return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, kept))
    return labels, named(labels, given, name)


def occurring(train: Labels, test: Labels, classes: tuple[str, ...]) -> tuple[Labels, Labels, tuple[str, ...]]:
    """The labels numbered anew over the classes that occur in a part, and these classes."""
    if train.ndim == 2:
        kept = np.flatnonzero((train > 0).any(0) | (test > 0).any(0))
        return train[:, kept], test[:, kept], tuple(classes[i] for i in kept)
    kept = np.union1d(train, test)
    return np.searchsorted(kept, train), np.searchsorted(kept, test), tuple(classes[i] for i in kept)


def check_classes(train: Any, test: Any, classes: tuple[str, ...], name: str) -> None:
    """Raise SamplesError unless both labels fit `classes` and each class has a training vector."""
    for part, y in (("training", train), ("test", test)):
        whole = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype == np.int64
        rows = isinstance(y, np.ndarray) and y.ndim == 2 and y.dtype == np.float32 and np.isin(y, (0, 1)).all()
        if not whole and not rows:
            raise SamplesError(
                f"the {part} labels of {name} are neither int64 (n,) nor float32 (n, classes) of 0 and 1; "
                "load_features makes them so."
            )
        largest = int(y.max(initial=-1)) + 1 if whole else y.shape[1]
        if (whole and y.size and y.min() < 0) or largest > len(classes) or (rows and largest < len(classes)):
            raise SamplesError(
                f"the {part} labels of {name} do not fit its {len(classes)} classes; number them 0 to "
                f"{len(classes) - 1}, or give one column a class."
            )
    if train.ndim != test.ndim:
        raise SamplesError(f"the parts of {name} have labels of two kinds; give both as class numbers or both as rows.")
    if len(classes) < 2:
        raise SamplesError(
            f"{name} has one class only ({listing(classes)}); a classifier needs vectors of two or more."
        )
    held = (train > 0).sum(0) if train.ndim == 2 else np.bincount(train, minlength=len(classes))
    absent = [str(classes[i]) for i in np.flatnonzero(held == 0)]
    if absent:
        raise SamplesError(
            f"{name} has no training vector of {listing(absent)} ({len(absent)} of {len(classes)} classes); "
            "give more vectors, or leave these classes out."
        )
