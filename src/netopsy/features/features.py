"""Feature vectors with labels, in a training and a test part, their classes cut to those that occur."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from netopsy.errors import SamplesError
from netopsy.samples.labels import Labels, check_labels, find_classes, indices_of, name_classes
from netopsy.wording import listing, plural


def read_labels(
    values: NDArray[np.generic], classes: str | Path | Sequence[str] | None, name: str
) -> tuple[Labels, tuple[str, ...]]:
    """Labels as Features hold them, and the names of the classes.

    values: whole numbers (n,), text (n,), or 0 and 1 (n, classes). Text is numbered in alphabetical order without
    `classes`; text of whole numbers is read as numbers.
    """
    class_names = find_classes(classes)
    if values.dtype.kind == "O" and values.ndim == 1 and all(isinstance(word, str) for word in values):
        values = values.astype(str)
    if values.dtype.kind in "UT" and values.ndim == 1:
        words = [str(word) for word in values]
        if "" in words:
            raise SamplesError(f"{name} has no label at row {words.index('')}; give every vector one.")
        return indices_of(words, class_names, name)
    if values.dtype.kind == "f" and values.ndim == 1 and not np.isfinite(values).all():
        raise SamplesError(f"the labels of {name} hold NaN or infinity; give every vector one.")
    if values.dtype.kind == "b" and values.ndim == 1:
        values = values.astype(np.int64)
    labels = check_labels(values, name)
    if not len(labels):
        raise SamplesError(f"{name} holds no vectors; give two or more of each class.")
    if class_names is not None and labels.ndim == 1 and labels.max() >= len(class_names):
        raise SamplesError(
            f"{name} has the label {labels.max()}, but {len(class_names)} class names are given (labels 0 to "
            f"{len(class_names) - 1}); give a name for each class."
        )
    if (
        labels.ndim == 1 and class_names is None
    ):  # identifiers, such as 1-based or sparse ones, need no names in between
        names, labels = np.unique(labels, return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, names))
    return labels, name_classes(labels, class_names, name)


def occurring(train: Labels, test: Labels, classes: tuple[str, ...]) -> tuple[Labels, Labels, tuple[str, ...]]:
    """The labels numbered anew over the classes that occur in a part, and these classes."""
    if train.ndim == 2:
        present = np.flatnonzero((train > 0).any(0) | (test > 0).any(0))
        return train[:, present], test[:, present], tuple(classes[i] for i in present)
    present = np.union1d(train, test)
    return np.searchsorted(present, train), np.searchsorted(present, test), tuple(classes[i] for i in present)


def check_classes(train: Any, test: Any, classes: tuple[str, ...], name: str) -> None:
    """Raise SamplesError unless both labels fit `classes` and each class has a training vector."""
    for part, y in (("training", train), ("test", test)):
        numbered = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype == np.int64
        rows = isinstance(y, np.ndarray) and y.ndim == 2 and y.dtype == np.float32 and np.isin(y, (0, 1)).all()
        if not numbered and not rows:
            raise SamplesError(
                f"the {part} labels of {name} are neither int64 (n,) nor float32 (n, classes) of 0 and 1; "
                "load_features makes them so."
            )
        largest = int(y.max(initial=-1)) + 1 if numbered else y.shape[1]
        if (numbered and y.size and y.min() < 0) or largest > len(classes) or (rows and largest < len(classes)):
            raise SamplesError(
                f"the {part} labels of {name} do not fit its {len(classes)} classes; number them 0 to "
                f"{len(classes) - 1}, or give one column per class."
            )
    if train.ndim != test.ndim:
        raise SamplesError(f"the parts of {name} have labels of two kinds; give both as class numbers or both as rows.")
    if len(classes) < 2:
        raise SamplesError(
            f"{name} has one class only ({listing(classes)}); a classifier needs vectors of two or more."
        )
    counts = (train > 0).sum(0) if train.ndim == 2 else np.bincount(train, minlength=len(classes))
    absent = [str(classes[i]) for i in np.flatnonzero(counts == 0)]
    if absent:
        raise SamplesError(
            f"{name} has no training vector of {listing(absent)} ({len(absent)} of {len(classes)} classes); "
            "give more vectors, or leave these classes out."
        )


Vectors = Float[np.ndarray, "n p"]
_BLOCK = 32 * 2**20  # bytes that a pass over the vectors reads at a time


class Scratch:
    """A temporary folder that goes with the last of the Features whose files lie there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder now."""
        self._remove()


@dataclass(frozen=True, eq=False)
class Features:
    """Feature vectors of two sets of labelled things, one to train on and one to test on.

    name: where they came from, for people.
    x_train, x_test: float32 or float16 (n, p), arrays or memory-mapped files.
    y_train, y_test: int64 (n,) indices of `classes`, or float32 (n, classes) of 0 and 1 where one may have several.
    classes: the classes' names; every one has a training vector.
    Raises SamplesError for parts that do not fit one another. `load_features` makes them from files and arrays.
    """

    name: str
    x_train: Vectors
    y_train: Labels
    x_test: Vectors
    y_test: Labels
    classes: tuple[str, ...]
    scratch: Scratch | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for part, x, y in (("training", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if getattr(x, "ndim", 0) != 2 or x.dtype not in (np.float32, np.float16):
                description = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
                raise SamplesError(
                    f"the {part} vectors of {self.name} are {description}; give float32 or float16 (n, dimensions), "
                    "or let load_features make them."
                )
            if not x.size:
                raise SamplesError(f"{self.name} has no {part} vectors; give at least one a class.")
            if len(x) != len(y):
                raise SamplesError(f"{self.name} has {len(x):,} {part} vectors and {len(y):,} labels; give one each.")
        if self.x_train.shape[1] != self.x_test.shape[1]:
            raise SamplesError(
                f"{self.name} has training vectors of {self.x_train.shape[1]:,} dimensions and test vectors of "
                f"{self.x_test.shape[1]:,}; give both parts from one source."
            )
        check_classes(self.y_train, self.y_test, self.classes, self.name)

    @property
    def dimensions(self) -> int:
        """Length p of a vector."""
        return int(self.x_train.shape[1])

    @property
    def multilabel(self) -> bool:
        """Whether a vector may have several labels."""
        return self.y_train.ndim == 2

    @cached_property
    def digest(self) -> str:
        """BLAKE2b (32 bytes, hexadecimal) over classes, labels and vectors of both parts, in order."""
        total = hashlib.blake2b(digest_size=32)
        total.update(repr(self.classes).encode(errors="surrogatepass"))
        for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test)):
            total.update(f"{y.dtype} {y.shape};".encode() + y.tobytes())
            total.update(f"{x.dtype} {x.shape};".encode())
            for part in blocks_of(x):
                total.update(np.ascontiguousarray(part).data)
        return total.hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        """Plain data that says which features these are."""
        return {
            "name": self.name,
            "dimensions": self.dimensions,
            "type": str(self.x_train.dtype),
            "training": len(self.x_train),
            "test": len(self.x_test),
            "classes": len(self.classes),
            "digest": self.digest,
        }

    def close(self) -> None:
        """Remove the temporary files of features extracted outside a workspace; others keep theirs."""
        if self.scratch is not None:
            self.scratch.close()

    def __repr__(self) -> str:
        return (
            f"Features({self.name}, {len(self.x_train):,} + {len(self.x_test):,} vectors, "
            f"{plural(self.dimensions, 'dimension')}, {plural(len(self.classes), 'class', 'classes')})"
        )


def blocks_of(x: np.ndarray) -> Iterator[np.ndarray]:
    """`x` in consecutive runs of rows of at most 32 MB (one row at least)."""
    step = max(1, _BLOCK // max(1, x[:1].nbytes))
    for first in range(0, len(x), step):
        yield x[first : first + step]
