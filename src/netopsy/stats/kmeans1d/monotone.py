"""One row of the k-means dynamic programme, found with the monotonicity of the best last cut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from netopsy.stats.kmeans1d.codebook import FLOATS, INTEGERS

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
    known = np.array([], np.int64)
    for stride in STRIDES:
        every = np.arange(len(low) - 1, -1, -stride)[::-1]
        wanted = np.setdiff1d(every, known, assume_unique=True)
        if not len(wanted):
            continue
        after = np.searchsorted(known, wanted)
        floor = np.maximum(np.concatenate([[0], best[known]])[after], low[wanted])
        ceiling = np.minimum(np.concatenate([best[known], [len(gains) - 1]])[after], high[wanted])
        lengths = np.maximum(ceiling - floor, 0) + 1
        starts = np.cumsum(lengths) - lengths
        cut = np.arange(lengths.sum()) + np.repeat(floor - starts, lengths)
        total = np.repeat(ends.sums[wanted], lengths) - cuts.sums[cut]
        total *= total
        total /= np.maximum(np.repeat(ends.ranks[wanted], lengths) - cuts.ranks[cut], 1)
        total += gains[cut]
        totals[wanted] = np.maximum.reduceat(total, starts)
        hits = np.flatnonzero(total == np.repeat(totals[wanted], lengths))
        best[wanted] = cut[hits[np.searchsorted(hits, starts)]]
        totals[wanted[high[wanted] < low[wanted]]] = -np.inf
        known = every
    return best, totals
