"""What a 1-D k-means returns, and the assignment of values to its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FLOATS = np.ndarray[Any, np.dtype[Any]]
INTEGERS = np.ndarray[Any, np.dtype[Any]]

COMPARED = 255
"""Up to so many thresholds, comparing each value with all of them (SIMD) is twice as quick as a binary search."""
CHUNK = 1 << 15


@dataclass(frozen=True)
class Codebook:
    """Values replaced by the nearest of a few centroids.

    centroids: (k,), ascending, float32 or float64 as the values; fewer than k if the values hold fewer distinct ones.
    codes: (n,), unsigned, the index of each value's centroid, in the order of the flattened values.
    distortion: mean squared difference between the values and their centroids, in squared units of the values.
    """

    centroids: FLOATS
    codes: INTEGERS
    distortion: float

    def decode(self) -> FLOATS:
        """The values as the codebook has them, (n,): each is exactly one of the centroids."""
        return self.centroids[self.codes]


def code_dtype(k: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the codes 0..k-1."""
    return np.min_scalar_type(max(k - 1, 0))


def encode(values: FLOATS, thresholds: FLOATS) -> INTEGERS:
    """Code of each value, (n,): how many of the ascending `thresholds`, (k-1,), it reaches. Both of one dtype."""
    codes = np.empty(len(values), code_dtype(len(thresholds) + 1))
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        if len(thresholds) <= COMPARED:
            codes[part] = _reached(values[part], thresholds)
        else:
            codes[part] = np.searchsorted(thresholds, values[part], side="right")
    return codes


def _reached(values: FLOATS, thresholds: FLOATS) -> INTEGERS:
    count = np.zeros(len(values), np.uint8)
    reached = np.empty(len(values), bool)
    for threshold in thresholds:
        np.greater_equal(values, threshold, out=reached)
        count += reached.view(np.uint8)
    return count
