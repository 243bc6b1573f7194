"""What a 1-D k-means returns, and the sums over stretches of sorted values that it is made with."""

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
            codes[part] = _nearest_codes(values[part], thresholds)
        else:
            codes[part] = np.searchsorted(thresholds, values[part], side="right")
    return codes


def _nearest_codes(values: FLOATS, thresholds: FLOATS) -> INTEGERS:
    count = np.zeros(len(values), np.uint8)
    reached = np.empty(len(values), bool)
    for threshold in thresholds:
        np.greater_equal(values, threshold, out=reached)
        count += reached.view(np.uint8)
    return count


BLOCK = 64
BLOCKS_AT_ONCE = 1024


class BlockMoments:
    """Float64 moments of ascending values, one set a block; a 64th of the memory of a full prefix table.

    Values are taken relative to their mean, and squares relative to the mean of their block, so that
    neither a far-off mean nor values in distant clumps cost digits.

    values: (n,), ascending. means, squares: (blocks,), mean of a block minus `shift`, and the sum of
    squared differences from it.
    """

    def __init__(self, values: FLOATS) -> None:
        self.values = values
        self.shift = float(values.mean(dtype=np.float64))
        blocks = -(-len(values) // BLOCK)
        self.means = np.empty(blocks)
        self.squares = np.empty(blocks)
        self.counts = np.full(blocks, BLOCK)
        self.counts[-1] = len(values) - BLOCK * (blocks - 1)
        full_blocks = len(values) // BLOCK
        for start in range(0, full_blocks, BLOCKS_AT_ONCE):
            stop = min(start + BLOCKS_AT_ONCE, full_blocks)
            self._fill(slice(start, stop), values[start * BLOCK : stop * BLOCK].reshape(-1, BLOCK))
        if full_blocks < blocks:
            self._fill(slice(full_blocks, blocks), values[full_blocks * BLOCK :].reshape(1, -1))
        self._prefix = np.concatenate([[0.0], np.cumsum(self.means * self.counts)])

    def _fill(self, blocks: slice, values: FLOATS) -> None:
        shifted = values.astype(np.float64)
        shifted -= self.shift
        self.means[blocks] = shifted.mean(1)
        shifted -= self.means[blocks, None]
        self.squares[blocks] = np.einsum("ij,ij->i", shifted, shifted)

    def sums_before(self, ranks: INTEGERS) -> FLOATS:
        """Sum of (value - shift) over the values before each rank, 0..n; any shape."""
        block, rest = np.divmod(ranks, BLOCK)
        within = np.arange(BLOCK - 1)
        index = np.minimum((block * BLOCK)[..., None] + within, len(self.values) - 1)
        head = np.where(within < rest[..., None], self.values[index] - np.float64(self.shift), 0.0)
        return self._prefix[block] + head.sum(-1)

    def sums_along(self, ranks: INTEGERS) -> FLOATS:
        """As `sums_before`, for ascending ranks, (m,); quick for consecutive ranks and for whole blocks."""
        if ranks[-1] - ranks[0] == len(ranks) - 1:
            steps = self.values[ranks[:-1]] - np.float64(self.shift)
            return self.sums_before(ranks[:1]) + np.concatenate([[0.0], np.cumsum(steps)])
        sums = self._prefix[ranks // BLOCK]
        rest = np.flatnonzero(ranks % BLOCK)
        sums[rest] = self.sums_before(ranks[rest])
        return sums

    def about(self, cuts: INTEGERS, origins: FLOATS) -> tuple[FLOATS, float]:
        """First and second moments of clusters, relative to a point near each, so that no digits are lost.

        cuts: (k+1,), ranks from 0 to n. origins: (k,). Gives the sum of (value - origin) of each cluster, (k,), and
        the sum of (value - origin)**2 over all values.
        """
        inner = cuts[1:-1]
        split = np.unique(inner[inner % BLOCK != 0] // BLOCK)
        unsplit = np.delete(np.arange(len(self.means)), split)
        cells = np.searchsorted(inner, unsplit * BLOCK, side="right")
        offsets = self.means[unsplit] + self.shift - origins[cells]
        first = np.bincount(cells, self.counts[unsplit] * offsets, len(origins))
        second = float((self.squares[unsplit] + self.counts[unsplit] * offsets**2).sum())

        ranks = (split[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        ranks = ranks[ranks < len(self.values)]
        cells = np.searchsorted(inner, ranks, side="right")
        offsets = self.values[ranks] - origins[cells]
        return first + np.bincount(cells, offsets, len(origins)), second + float(offsets @ offsets)
