"""Feature vectors with labels, in a training and a test part."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from netopsy.errors import SamplesError
from netopsy.features.classes import check_classes
from netopsy.samples.strata import Labels

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
                given = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
                raise SamplesError(
                    f"the {part} vectors of {self.name} are {given}; give float32 or float16 (n, dimensions), "
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
            f"Features({self.name}, {len(self.x_train):,} + {len(self.x_test):,} vectors, {self.dimensions:,} "
            f"dimensions, {len(self.classes)} classes)"
        )


def blocks_of(x: np.ndarray) -> Iterator[np.ndarray]:
    """`x` in consecutive runs of rows of at most 32 MB (one row at least)."""
    step = max(1, _BLOCK // max(1, x[:1].nbytes))
    for first in range(0, len(x), step):
        yield x[first : first + step]
