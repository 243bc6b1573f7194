"""The exact dynamic programme on a coarse histogram of the sorted values."""

from __future__ import annotations

import numpy as np

from netopsy.stats.kmeans1d.codebook import FLOATS, INTEGERS
from netopsy.stats.kmeans1d.monotone import Places, best_last_cuts

ROUNDS = 3


def coarse_edges(values: FLOATS, bins: int) -> tuple[INTEGERS, bool]:
    """Ranks that part ascending `values` into about `bins` bins, (bins+1,), and whether each holds one distinct value.

    Half the bins hold equally many values. The others go, in three rounds, where n**(1/3) * width**(2/3) is large, the
    density of centroids that is best for many cells (Panter and Dite 1951): tails and gaps are not overlooked. No
    edge parts equal values.
    """
    n = len(values)
    edges = _snapped(values, np.linspace(0, n, min(bins // 2, n) + 1).astype(np.int64)[:-1])
    if len(edges) < bins // 2 or n <= bins:
        changes = values[1:] != values[:-1]
        if np.count_nonzero(changes) < bins:
            return np.concatenate([[0], np.flatnonzero(changes) + 1, [n]]), True
    for _ in range(ROUNDS):
        ends = np.append(edges[1:], n)
        left = values[edges].astype(np.float64)
        widths = values[ends - 1] - left
        share = np.concatenate([[0.0], np.cumsum(np.cbrt((ends - edges) * widths**2))])
        targets = np.linspace(0, share[-1], bins // (2 * ROUNDS) + 2)[1:-1]
        bin_ = np.searchsorted(share, targets, side="right") - 1
        wanted = left[bin_] + widths[bin_] * (targets - share[bin_]) / np.diff(share)[bin_]
        edges = np.union1d(edges, np.searchsorted(values, wanted.astype(values.dtype)))
    return np.append(edges, n), False


def _snapped(values: FLOATS, ranks: INTEGERS) -> INTEGERS:
    return np.unique(np.searchsorted(values, values[ranks]))


class CoarseProgramme:
    """The best clusters of whole bins, for any number of clusters.

    Row k holds, for each edge j, the best sum of n * mean**2 over k clusters of the bins before j, which
    is what k-means maximises. Rows are kept, so a sweep over k costs no more than its largest k.

    edges: (bins+1,), ranks. sums: (bins+1,), sum of the (centred) values before each edge.
    """

    def __init__(self, edges: INTEGERS, sums: FLOATS) -> None:
        self.edges = edges
        self._places = Places(edges.astype(np.float64), sums)
        self._gains = np.full(len(edges), -np.inf)
        self._gains[1:] = sums[1:] ** 2 / edges[1:]
        self._cuts = [np.zeros(len(edges), np.int32)]

    def cuts(self, k: int) -> INTEGERS:
        """Ranks that part the values into the best `k` clusters of whole bins, (k+1,)."""
        while len(self._cuts) < k:
            self._add_row()
        cut = len(self.edges) - 1
        cuts = [cut]
        for row in reversed(self._cuts[:k]):
            cut = int(row[cut])
            cuts.append(cut)
        return self.edges[cuts[::-1]]

    def _add_row(self) -> None:
        k = len(self._cuts) + 1
        ends = np.arange(k, len(self.edges))
        low = np.maximum(self._cuts[-1][ends], k - 1)
        cuts, gains = np.zeros(len(self.edges), np.int32), np.full(len(self.edges), -np.inf)
        after = Places(self._places.ranks[ends], self._places.sums[ends])
        cuts[ends], gains[ends] = best_last_cuts(after, self._places, self._gains, low, ends - 1)
        self._cuts.append(cuts)
        self._gains = gains
