"""The exact dynamic programme of 1-D k-means: on a coarse histogram first, then on ever finer places around each cut.

Each row uses the monotonicity of the best last cut.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from netopsy.stats.kmeans1d.codebook import BLOCK, FLOATS, INTEGERS, BlockMoments

STRIDES = (256, 16, 1)


class Places(NamedTuple):
    """Where the sorted values may be cut: ascending ranks, float64, and the sum of the centred values before each."""

    ranks: FLOATS
    sums: FLOATS


def best_last_cuts(ends: Places, cuts: Places, gains: FLOATS, low: INTEGERS, high: INTEGERS) -> tuple[INTEGERS, FLOATS]:
    """For each end the cut before it that makes gains[cut] + n * mean**2 of the values between them greatest.

    That sum over all clusters is what k-means maximises: the squares of the values add a constant. The best cut never
    moves back as the end moves on (Wu 1991), so every 256th end is searched first, then every 16th, then all, each
    between the answers of its neighbours.

    gains: (cuts,). low, high: (ends,), the range of cuts allowed, both non-decreasing. Gives the indices of the
    cuts, (ends,), and the greatest sums, (ends,).
    """
    best = np.empty(len(low), np.int64)
    totals = np.empty(len(low))
    solved = np.array([], np.int64)
    for stride in STRIDES:
        every = np.arange(len(low) - 1, -1, -stride)[::-1]
        new_ends = np.setdiff1d(every, solved, assume_unique=True)
        if not len(new_ends):
            continue
        after = np.searchsorted(solved, new_ends)
        floor = np.maximum(np.concatenate([[0], best[solved]])[after], low[new_ends])
        ceiling = np.minimum(np.concatenate([best[solved], [len(gains) - 1]])[after], high[new_ends])
        lengths = np.maximum(ceiling - floor, 0) + 1
        starts = np.cumsum(lengths) - lengths
        cut = np.arange(lengths.sum()) + np.repeat(floor - starts, lengths)
        total = np.repeat(ends.sums[new_ends], lengths) - cuts.sums[cut]
        total *= total
        total /= np.maximum(np.repeat(ends.ranks[new_ends], lengths) - cuts.ranks[cut], 1)
        total += gains[cut]
        totals[new_ends] = np.maximum.reduceat(total, starts)
        hits = np.flatnonzero(total == np.repeat(totals[new_ends], lengths))
        best[new_ends] = cut[hits[np.searchsorted(hits, starts)]]
        totals[new_ends[high[new_ends] < low[new_ends]]] = -np.inf
        solved = every
    return best, totals


ROUNDS = 3


def coarse_edges(values: FLOATS, bins: int) -> tuple[INTEGERS, bool]:
    """Ranks that part ascending `values` into about `bins` bins, (bins+1,), and whether each holds one distinct value.

    Half the bins hold equally many values. The others go, in three rounds, where n**(1/3) * width**(2/3) is large, the
    density of centroids that is best for many cells (Panter and Dite 1951): tails and gaps are not overlooked. No
    edge parts equal values.
    """
    n = len(values)
    edges = _snap(values, np.linspace(0, n, min(bins // 2, n) + 1).astype(np.int64)[:-1])
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
        new_edges = left[bin_] + widths[bin_] * (targets - share[bin_]) / np.diff(share)[bin_]
        edges = np.union1d(edges, np.searchsorted(values, new_edges.astype(values.dtype)))
    return np.append(edges, n), False


def _snap(values: FLOATS, ranks: INTEGERS) -> INTEGERS:
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


SIDE = 512
"""Places on either side of a cut."""
CELLS = 2
"""How many cells away a cut may go in one step."""
NARROWER = 8
REPEATS = 6
"""How often windows follow cuts that went to their ends, before they narrow all the same."""


def zoom(cuts: INTEGERS, moments: BlockMoments) -> INTEGERS:
    """Ranks of the best cuts within reach of coarse ones, (k+1,), from 0 to n.

    Each inner cut may go to 512 places on either side, at first as far as the second next cuts, a whole number of
    blocks apart; then to places ever closer to the one chosen; then to single ranks. All cuts are chosen jointly at
    every level: the error is so flat when neighbouring cuts drift together, and so rough from one value to the next,
    that Lloyd's iteration needs thousands of steps and then stops in a local optimum.
    """
    if len(cuts) < 3:
        return cuts
    steps = [1]
    while steps[-1] * SIDE < _reach(cuts).max():
        steps.append(max(steps[-1] * NARROWER, BLOCK))
    for coarsest in range(len(steps), 0, -1):
        for _ in range(REPEATS):
            before = cuts
            cuts, at_end = _choose(before, np.array(steps[:coarsest]), moments)
            if not at_end or np.array_equal(cuts, before):
                break
    return cuts


def _choose(cuts: INTEGERS, steps: INTEGERS, moments: BlockMoments) -> tuple[INTEGERS, bool]:
    """The jointly best cuts among places around each, and whether any is the last place offered on its side.

    Places lie as close as one of `steps` allows without falling short of the second next cuts, or are the largest.
    """
    fit = np.searchsorted(steps * SIDE, _reach(cuts))
    chosen_steps = steps[np.minimum(fit, len(steps) - 1)]
    windows = [_window(cuts, m, int(step)) for m, step in enumerate(chosen_steps, start=1)]
    places = [Places(window.astype(np.float64), moments.sums_along(window)) for window in windows]
    gains: FLOATS = places[0].sums ** 2 / places[0].ranks
    choices = []
    for left, right in pairwise(places):
        high = np.searchsorted(left.ranks, right.ranks) - 1
        best, gains = best_last_cuts(right, left, gains, np.zeros(len(high), np.int64), high)
        choices.append(best)
    chosen = [int(np.argmax(gains + places[-1].sums ** 2 / (cuts[-1] - places[-1].ranks)))]
    for best in reversed(choices):
        chosen.append(int(best[chosen[-1]]))
    chosen.reverse()
    ends = [(0, len(window) - 1) for window in windows]
    at_end = any(index in end for index, end in zip(chosen, ends, strict=True))
    inner = [window[index] for index, window in zip(chosen, windows, strict=True)]
    return np.concatenate([cuts[:1], inner, cuts[-1:]]), at_end


def _window(cuts: INTEGERS, m: int, step: int) -> INTEGERS:
    """Places for cut m, strictly between its neighbours: the cut itself and multiples of `step` on either side."""
    cut = cuts[m]
    base = cut // step
    window = np.arange(base - SIDE, base + SIDE + 1) * step
    if base * step != cut:
        window = np.insert(window, SIDE + 1, cut)
    return window[(window > cuts[max(m - CELLS, 0)]) & (window < cuts[min(m + CELLS, len(cuts) - 1)])]


def _reach(cuts: INTEGERS) -> INTEGERS:
    """Ranks from each inner cut to the farther of the cuts `CELLS` cells away, (k-1,)."""
    m = np.arange(1, len(cuts) - 1)
    return np.maximum(cuts[m] - cuts[np.maximum(m - CELLS, 0)], cuts[np.minimum(m + CELLS, len(cuts) - 1)] - cuts[m])
