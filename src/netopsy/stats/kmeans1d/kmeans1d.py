"""K-means of numbers (Lorieul et al., Section III.D): one sort, many codebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from netopsy.errors import SettingsError
from netopsy.stats.kmeans1d.codebook import FLOATS, INTEGERS, BlockMoments, Codebook, encode
from netopsy.stats.kmeans1d.dynamic_programme import CoarseProgramme, coarse_edges, zoom

if TYPE_CHECKING:
    from torch import Tensor

Start = Literal["dp", "linear", "density", "random"]
LARGEST_K = 4096
BINS_A_CELL = 32
"""With 8, K = 256 ends 0.1 % and more above the least error: families of cuts are cells off, which no zoom mends."""
ITERATIONS = 20_000


def kmeans1d(values: np.ndarray | Tensor, k: int, *, start: Start = "dp", seed: int = 0) -> Codebook:
    """The `k` numbers that stand for `values` with the least mean squared error, and the nearest one for each value.

    values: numbers of any shape (flattened), numpy or torch, of any real type; finite, not empty.
    k: 1 to 4096. Where the values hold no more than k distinct numbers, those are the centroids and nothing is lost.
    start: "dp", an exact dynamic programme on a coarse histogram, then on ever finer windows around each cut: within
    1e-5 of the least error possible for k up to 256. Or, followed by plain Lloyd iterations, "linear" (equal steps from
    least to greatest), "density" (equally many values each) or "random" (values drawn with `seed`); these find a local
    optimum, drop clusters that turn out empty, and so may give fewer centroids.

    Float64 values and wide integers give float64 centroids, all others float32. Raises SettingsError.
    """
    return SortedValues(values).kmeans(k, start=start, seed=seed)


class SortedValues:
    """Values sorted once, for codebooks of many sizes: `SortedValues(values).kmeans(k)` for each k. See `kmeans1d`."""

    def __init__(self, values: np.ndarray | Tensor) -> None:
        self.values = _flat(values)
        if not len(self.values):
            raise SettingsError("k-means was given no values; give at least one.")
        self.sorted = np.sort(self.values)
        if not (np.isfinite(self.sorted[0]) and np.isfinite(self.sorted[-1])):
            raise SettingsError("k-means was given NaN or infinite values; leave them out, or mend the weights.")
        self.moments = BlockMoments(self.sorted)
        self._programmes: dict[int, tuple[CoarseProgramme, bool]] = {}

    def kmeans(self, k: int, *, start: Start = "dp", seed: int = 0) -> Codebook:
        """The codebook of `k` centroids; as `kmeans1d`."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= LARGEST_K:
            raise SettingsError(f"k = {k!r} clusters; give a whole number from 1 to {LARGEST_K}.")
        if start not in get_args(Start):
            raise SettingsError(f"no start {start!r} of k-means; allowed: {', '.join(get_args(Start))}.")
        k = int(k)
        programme, exact = self._programme(k)
        if exact and len(programme.edges) - 1 <= k:
            cuts = programme.edges
        elif start == "dp":
            cuts = self._best_cuts(programme, exact, k)
        else:
            cuts = self._lloyd(self._nearest(self.starting_centroids(k, start, seed)))
        return self._codebook(cuts)

    def _programme(self, k: int) -> tuple[CoarseProgramme, bool]:
        bins = 1 << max(10, (min(BINS_A_CELL * k, max(8192, 4 * k)) - 1).bit_length())
        if bins not in self._programmes:
            edges, exact = coarse_edges(self.sorted, bins)
            self._programmes[bins] = CoarseProgramme(edges, self.moments.sums_before(edges)), exact
        return self._programmes[bins]

    def _best_cuts(self, programme: CoarseProgramme, exact: bool, k: int) -> INTEGERS:
        cuts = programme.cuts(k)
        return cuts if exact else self._lloyd(zoom(cuts, self.moments))

    def starting_centroids(self, k: int, start: Start, seed: int = 0) -> FLOATS:
        """Where `kmeans` starts, (k,), ascending: linear, density or random (fewer where there are fewer values)."""
        n = len(self.sorted)
        if start == "linear":
            return np.linspace(float(self.sorted[0]), float(self.sorted[-1]), k)
        if start == "density":
            return self.sorted[((np.arange(k) + 0.5) * n / k).astype(np.int64)].astype(np.float64)
        ranks = np.random.default_rng(seed).choice(n, min(k, n), replace=False, shuffle=False)
        return self.sorted[np.sort(ranks)].astype(np.float64)

    def _nearest(self, centroids: FLOATS) -> INTEGERS:
        """Cuts between ascending centroids, halfway, as ranks."""
        halfway = (centroids[:-1] + (centroids[1:] - centroids[:-1]) / 2).astype(self.sorted.dtype)
        return np.concatenate([[0], np.searchsorted(self.sorted, halfway), [len(self.sorted)]])

    def _lloyd(self, cuts: INTEGERS) -> INTEGERS:
        """Lloyd's iteration (1982), by binary search, until it moves no cut. Empty clusters are dropped."""
        for _ in range(ITERATIONS):
            cuts = np.unique(cuts)
            sums = np.diff(self.moments.sums_before(cuts))
            moved = self._nearest(self.moments.shift + sums / np.diff(cuts))
            if np.array_equal(moved, cuts):
                break
            cuts = moved
        return np.unique(cuts)

    def _codebook(self, cuts: INTEGERS) -> Codebook:
        counts = np.diff(cuts)
        near = self.sorted[(cuts[:-1] + cuts[1:]) // 2].astype(np.float64)
        sums, _ = self.moments.about(cuts, near)
        centroids = (near + sums / counts).astype(self.sorted.dtype)
        _, squares = self.moments.about(cuts, centroids.astype(np.float64))
        codes = encode(self.values, self.sorted[cuts[1:-1]])
        return Codebook(centroids, codes, squares / len(self.values))


def _flat(values: np.ndarray | Tensor) -> FLOATS:
    """Values as a flat array of float32 or float64, whichever holds them; not copied where they are one."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.dtype.itemsize < 4 else values).numpy()
    values = np.asarray(values)
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "fiub":
        raise SettingsError(f"k-means was given values of type {values.dtype}; give real numbers.")
    wide = size > 4 or (kind != "f" and size == 4)
    return np.ascontiguousarray(values, np.float64 if wide else np.float32).reshape(-1)
