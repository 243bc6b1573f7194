"""Scalar quantisers: cells that part the line, each with a value of its own, and integers with a scale a group.

The cells are found on the sorted values, by counts and running sums alone, so that many can be weighed up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netopsy.codec.shared import LARGEST_TABLE, SharedTensor, scales_shape, spread
from netopsy.stats.kmeans1d.kmeans1d import SortedValues
from netopsy.studies.prescribe.knapsack import lower_hull

FLOATS = NDArray[np.float64]
ROUNDS = 8


@dataclass(frozen=True)
class Cells:
    """thresholds: float64 (k - 1,), ascending. table: float64 (k,), the value of each cell; one of them is 0.0."""

    thresholds: FLOATS
    table: FLOATS

    def nearest(self, values: FLOATS, column: int | None = None) -> FLOATS:
        """The value of each value's cell, of the same shape, in whatever column they are."""
        return self.table[np.searchsorted(self.thresholds, values, side="right")]

    def share(self, values: NDArray[np.float32]) -> SharedTensor:
        """`values` as entries of the table; what is 0.0 stays 0.0."""
        nearest_values = self.nearest(values.astype(np.float64))
        return self.tensor(np.where(values == 0, 0.0, nearest_values).astype(np.float32))

    def tensor(self, rounded: NDArray[np.float32]) -> SharedTensor:
        """Values that are entries of the table already, as the tensor of a file."""
        return SharedTensor.of(rounded)


HALF = 2.0**-10
"""Relative error up to which a scale is as good in float16."""


@dataclass(frozen=True)
class Groups:
    """Integers with a scale for each `size` values of a row, as language models are stored in (`int4_group32`).

    A value w becomes s * round(w / s), with s the largest magnitude of its group over 2^(bits - 1) - 1, in float16
    where that holds it. scales: float32 (rows, groups a row), see `SharedTensor`.
    """

    bits: int
    size: int
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, weight: NDArray[np.float32], bits: int, size: int) -> Groups:
        """The groups of `weight`, (rows, *values)."""
        rows, count = scales_shape(weight.shape, size)
        flat = np.abs(weight.reshape(rows, -1))
        padded = np.pad(flat, ((0, 0), (0, count * size - flat.shape[1])))
        scales = (padded.reshape(rows, count, size).max(2) / (2 ** (bits - 1) - 1)).astype(np.float32)
        scales[scales < np.finfo(np.float32).tiny] = 0.0
        with np.errstate(over="ignore"):
            half = scales.astype(np.float16).astype(np.float32)
        close = bool((np.abs(half - scales) <= HALF * scales).all())
        return cls(bits, size, half if close else scales)

    @property
    def name(self) -> str:
        """As `rounding` names the format."""
        return f"int{self.bits}_group{self.size}"

    def nearest(self, values: FLOATS, column: int) -> FLOATS:
        """The values (rows,) of one column in the format."""
        scales = self.scales[:, column // self.size].astype(np.float64)
        return scales * self._integers(values, scales)

    def share(self, values: NDArray[np.float32]) -> SharedTensor:
        """`values` as integers and scales."""
        return self.tensor(values)

    def tensor(self, rounded: NDArray[np.float32]) -> SharedTensor:
        """Values, rounded to the format already or not, as the tensor of a file."""
        rows = rounded.reshape(len(self.scales), -1).astype(np.float64)
        integers = self._integers(rows, spread(self.scales, self.size, rounded.shape).astype(np.float64))
        codes = SharedTensor.of(integers.reshape(rounded.shape).astype(np.float32))
        return SharedTensor(codes.shape, codes.table, codes.codes, self.size, self.scales)

    def _integers(self, values: FLOATS, scales: FLOATS) -> FLOATS:
        top = 2.0 ** (self.bits - 1) - 1
        return np.where(scales > 0, np.rint(values / np.where(scales > 0, scales, 1.0)), 0.0).clip(-top, top)


class Line:
    """A layer's values, sorted once, with running sums: what the cells are found on."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = np.sort(values.reshape(-1).astype(np.float64))
        self.sums = np.concatenate([[0.0], np.cumsum(self.values)])
        used = np.count_nonzero(self.values)
        self.size = len(self.values)
        self.rms = float(np.sqrt((self.values**2).sum() / used)) if used else 0.0  # of the values that are not zero

    def cells(self, thresholds: FLOATS, zero: int) -> Cells:
        """The cells between ascending thresholds, each with the mean of its values; cell `zero` takes 0.0."""
        edges = np.concatenate([[0], np.searchsorted(self.values, thresholds, side="left"), [self.size]])
        counts = np.diff(edges)
        means = np.diff(self.sums[edges]) / np.maximum(counts, 1)
        means[zero] = 0.0
        keep = (counts > 0) | (np.arange(len(counts)) == zero)
        # an empty cell joins its neighbour on the side of zero
        left = [thresholds[i] for i in range(len(thresholds)) if keep[i + 1 if i >= zero else i]]
        return Cells(np.array(left), means[keep])

    def uniform(self, step: float, pull: float) -> Cells:
        """Multiples of `step`, with thresholds that weigh error against bits.

        pull: the squared error, in units of step^2, that a bit is worth. 0 takes the nearest multiple; ln 2 / 6 =
        0.1155 is where error and bits trade evenly at small steps. The thresholds are those of entropy-constrained
        scalar quantisation (Chou, Lookabaugh & Gray, IEEE Trans. ASSP 37, 1989): a value goes to the multiple k of
        the least (value / step - k)^2 + pull * bits(k), that is to a corner of the lower hull of k^2 + pull * bits(k).
        """
        low, high = (int(np.rint(self.values[i] / step)) for i in (0, -1))
        every = np.arange(min(low, 0), max(high, 0) + 1)
        multiples, thresholds = every, np.asarray((every[:-1] + 0.5) * step, np.float64)
        for _ in range(ROUNDS if pull > 0 else 0):
            edges = np.concatenate([[0], np.searchsorted(self.values, thresholds), [self.size]])
            bits = np.log2(self.size) - np.log2(np.maximum(np.diff(edges), 0.5))
            heights = multiples.astype(np.float64) ** 2 + pull * bits
            corners = lower_hull(list(zip(multiples.tolist(), heights.tolist(), strict=True)))
            if int(np.flatnonzero(multiples == 0)[0]) not in corners:
                break  # 0.0 stays a value of its own
            before, multiples, heights = multiples, multiples[corners], heights[corners]
            slopes = np.diff(heights) / np.diff(multiples)
            moved = slopes / 2 * step
            if len(before) == len(multiples) and np.allclose(moved, thresholds, rtol=0, atol=1e-4 * step):
                break
            thresholds = moved
        return self.cells(thresholds, int(np.flatnonzero(multiples == 0)[0]))

    def smallest_step(self) -> float:
        """The step below which a table would be too long."""
        return float(np.ptp(self.values)) / (LARGEST_TABLE - 4)

    def kmeans(self, density: float, entries: int) -> Cells:
        """The `density` largest in magnitude kept, with `entries` values from 1-D k-means, one of them 0.0."""
        size = np.sort(np.abs(self.values))[::-1]
        least = size[max(1, round(density * self.size)) - 1]
        large = self.values[(np.abs(self.values) >= least) & (self.values != 0)]
        table = np.unique(SortedValues(large.astype(np.float32)).kmeans(entries - 1).centroids.astype(np.float64))
        below, above = table[table < 0], table[table > 0]
        inner = [large[large < 0].max()] if len(below) else []
        outer = [large[large > 0].min()] if len(above) else []
        thresholds = [*_middles(below), *(np.nextafter(x, 0) for x in inner), *outer, *_middles(above)]
        return self.cells(np.array(thresholds), len(below))


def _middles(ascending: FLOATS) -> FLOATS:
    return (ascending[1:] + ascending[:-1]) / 2
