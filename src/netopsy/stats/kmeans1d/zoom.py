"""From coarse cuts to exact ones: the same dynamic programme on ever finer places around each cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from netopsy.stats.kmeans1d.codebook import FLOATS, INTEGERS
from netopsy.stats.kmeans1d.moments import BLOCK, BlockMoments
from netopsy.stats.kmeans1d.monotone import Places, best_last_cuts

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
    own = steps[np.minimum(fit, len(steps) - 1)]
    windows = [_window(cuts, m, int(step)) for m, step in enumerate(own, start=1)]
    places = [Places(window.astype(np.float64), moments.sums_along(window)) for window in windows]
    gains: FLOATS = places[0].sums ** 2 / places[0].ranks
    trail = []
    for before, here in pairwise(places):
        high = np.searchsorted(before.ranks, here.ranks) - 1
        best, gains = best_last_cuts(here, before, gains, np.zeros(len(high), np.int64), high)
        trail.append(best)
    chosen = [int(np.argmax(gains + places[-1].sums ** 2 / (cuts[-1] - places[-1].ranks)))]
    for best in reversed(trail):
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
