"""How far a sample is from having one mode.

Source: Hartigan & Hartigan, "The dip test of unimodality", Annals of Statistics 13 (1985).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64


def dip(values: Float64[np.ndarray, " n"]) -> float:
    """The largest distance between the sample's distribution function and the nearest one with a single mode.

    0 for a single value, at most 1/4 (two equal heaps); about 0.4 / sqrt(n) for an evenly filled stretch.
    """
    x, counts = np.unique(values, return_counts=True)
    if len(x) < 2:
        return 0.0
    top = np.cumsum(counts) / counts.sum()
    bottom = top - counts / counts.sum()
    low, high, least = 0, len(x) - 1, counts.min() / counts.sum()
    # the modal interval shrinks while the curves outside it fit better than those inside
    while True:
        below, touches_below = _hull(x[low : high + 1], bottom[low : high + 1], convex=True)
        above, touches_above = _hull(x[low : high + 1], top[low : high + 1], convex=False)
        gaps_below, gaps_above = ((above - below)[touches] for touches in (touches_below, touches_above))
        if gaps_above.max() > gaps_below.max():
            gap, right = gaps_above.max(), int(touches_above[gaps_above.argmax()])
            left = int(touches_below[touches_below <= right][-1])
        else:
            gap, left = gaps_below.max(), int(touches_below[gaps_below.argmax()])
            right = int(touches_above[touches_above >= left][0])
        if gap <= least:
            return least / 2
        outside_left = top[low : low + left] - below[:left]
        outside_right = (above - bottom[low : high + 1])[right + 1 :]
        least = max(least, outside_left.max(initial=0), outside_right.max(initial=0))
        if left == 0 and right == high - low:
            return least / 2
        low, high = low + left, low + right


def _hull(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], *, convex: bool
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " touches"]]:
    """The greatest convex function below the points (or the least concave one above), and where it touches them."""
    sign = 1.0 if convex else -1.0
    corners: list[int] = []
    for i in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if sign * ((y[b] - y[a]) * (x[i] - x[a]) - (y[i] - y[a]) * (x[b] - x[a])) < 0:
                break
            corners.pop()
        corners.append(i)
    touches = np.array(corners)
    return np.interp(x, x[touches], y[touches]), touches
