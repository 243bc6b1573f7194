"""Monotone curves: through a few measured points, and through many noisy ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

FLOATS = NDArray[np.float64]
_TINY = 1e-12


def loss_at(noise: Sequence[float], measured: Sequence[tuple[float, float]]) -> FLOATS:
    """The loss at each `noise`, from `measured` (noise, loss) pairs: the loss a noise, pooled and interpolated.

    To second order the loss is in proportion to the noise, the mean squared error of the weights; beyond that it grows
    faster. So the logarithm of loss over noise is taken to rise with the noise: by isotonic regression, which evens
    out the luck of single roundings, then by straight lines over the logarithm of the noise, level at both ends. No
    noise is no loss; without measurements every noise is an infinite one.
    """
    given = np.asarray(noise, np.float64)
    if not measured:
        return np.where(given > 0, np.inf, 0.0)
    x, y = (np.array(column, np.float64) for column in zip(*sorted(measured), strict=True))
    finite = np.isfinite(y)
    y = np.where(finite, y, max(1e3, 10 * y[finite].max(initial=0.0)))
    ratios = isotonic_regression(np.log(np.maximum(y, _TINY) / x)).x
    return given * np.exp(np.interp(np.log(np.maximum(given, _TINY)), np.log(x), ratios))


class Exchange:
    """What a divergence costs in accuracy: the monotone curve nearest to measured pairs of them, from (0, 0).

    Drops are differences of counts and coarse; pooled over many versions of the network they tell the mean drop at a
    divergence far better than any one of them does. Source: isotonic regression (Barlow et al., 1972).
    """

    def __init__(self, divergences: Sequence[float], drops: Sequence[float]) -> None:
        pairs = sorted((x, y) for x, y in zip(divergences, drops, strict=True) if np.isfinite(x))
        self.x = np.array([0.0, *(x for x, _ in pairs)])
        rising = isotonic_regression([y for _, y in pairs]).x if pairs else []
        self.y: FLOATS = np.maximum([0.0, *rising], 0.0)

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
