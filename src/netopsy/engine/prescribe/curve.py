"""Monotone curves: through a few measured points, and through many noisy ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

FLOATS = NDArray[np.float64]
_TINY = 1e-12


def loss_at(noise: Sequence[float], measured: Sequence[tuple[float, float]]) -> FLOATS:
    """The loss at each `noise`, from `measured` (noise, loss) pairs: straight lines between their logarithms.

    Losses that fall as the noise rises are pooled first. Below the least measured noise the loss is in proportion to
    the noise (it is of second order in the weights' error); beyond the largest one it goes on as before, at least in
    proportion. No noise is no loss.
    """
    given = np.asarray(noise, np.float64)
    if not measured:
        return np.where(given > 0, np.inf, 0.0)
    x, y = (np.array(column, np.float64) for column in zip(*sorted(measured), strict=True))
    finite = np.isfinite(y)
    y = np.where(finite, y, max(1e3, 10 * y[finite].max(initial=0.0)))
    logs = isotonic_regression(np.log(np.maximum(y, _TINY))).x
    places = np.log(x)
    at = np.log(np.maximum(given, _TINY))
    found = np.interp(at, places, logs)
    slope = max(1.0, (logs[-1] - logs[-2]) / (places[-1] - places[-2])) if len(x) > 1 else 1.0
    found = np.where(at < places[0], logs[0] + (at - places[0]), found)
    found = np.where(at > places[-1], logs[-1] + slope * (at - places[-1]), found)
    return np.where(given > 0, np.exp(found), 0.0)


class Exchange:
    """What a divergence costs in accuracy: the monotone curve nearest to measured (divergence, drop) pairs, from (0, 0).

    Drops are differences of counts and coarse; pooled over many versions of the network they tell the mean drop at a
    divergence far better than any one of them does. Source: isotonic regression (Barlow et al., 1972).
    """

    def __init__(self, divergences: Sequence[float], drops: Sequence[float]) -> None:
        pairs = sorted((x, y) for x, y in zip(divergences, drops, strict=True) if np.isfinite(x))
        self.x = np.array([0.0, *(x for x, _ in pairs)])
        heights = np.array([0.0, *(y for _, y in pairs)])
        weights = np.ones(len(heights))
        weights[0] = 1e6
        self.y: FLOATS = np.maximum(isotonic_regression(heights, weights=weights).x, 0.0)

    def drop(self, divergence: float) -> float:
        """The expected drop, a share of 0 to 1."""
        return float(np.interp(divergence, self.x, self.y))

    def divergence(self, drop: float) -> float:
        """The largest divergence whose expected drop is at most `drop`; of the last point where none exceeds it."""
        above = np.flatnonzero(self.y > drop)
        if not len(above):
            return float(self.x[-1])
        i = int(above[0])
        (x0, x1), (y0, y1) = self.x[i - 1 : i + 1], self.y[i - 1 : i + 1]
        return float(x0 + (x1 - x0) * max(0.0, drop - y0) / (y1 - y0))
