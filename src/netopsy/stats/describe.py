"""Statistics of a long vector, in chunks of float64, and a few of many where not all can be shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

CHUNK = 1 << 20


@dataclass(frozen=True)
class Description:
    """Population statistics (divided by n) of n values.

    kurtosis: in excess of the normal's 3. skewness, kurtosis: NaN where the values are all equal.
    zeros: share of values that are exactly 0, from 0 to 1.
    """

    values: int
    mean: float
    std: float
    skewness: float
    kurtosis: float
    minimum: float
    maximum: float
    zeros: float


def chunks(values: Float[np.ndarray, " n"]) -> Iterator[Float64[np.ndarray, " chunk"]]:
    """The values in float64, a chunk at a time; each chunk is the caller's to overwrite."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK].astype(np.float64)


def describe(values: Float[np.ndarray, " n"]) -> Description:
    """Moments about the mean, extremes and share of zeros of at least one value."""
    n = len(values)
    low, high = float(values.min()), float(values.max())
    mean = low if low == high else sum(float(part.sum()) for part in chunks(values)) / n
    second = third = fourth = 0.0
    zeros = n - int(np.count_nonzero(values))
    for part in chunks(values):
        part -= mean
        square = part * part
        second += float(square.sum())
        third += float(part @ square)
        fourth += float(square @ square)
    variance = second / n
    flat = variance <= 0
    return Description(
        values=n,
        mean=mean,
        std=variance**0.5,
        skewness=float("nan") if flat else third / n / variance**1.5,
        kurtosis=float("nan") if flat else fourth / n / variance**2 - 3,
        minimum=low,
        maximum=high,
        zeros=zeros / n,
    )


def histogram(
    ascending: Float[np.ndarray, " n"], center: float, reach: float, bins: int
) -> tuple[Float64[np.ndarray, " edges"], Int64[np.ndarray, " edges-1"]]:
    """Edges and counts of `bins` equal bins over center +- reach, within the extremes of the `ascending` values.

    Values beyond the range fall into one more bin at either end, which reaches to the extreme. The counts sum to n.
    """
    low, high = float(ascending[0]), float(ascending[-1])
    if low == high:
        return np.array([low, high]), np.array([len(ascending)])
    left, right = max(low, center - reach), min(high, center + reach)
    edges = np.linspace(left, right, bins + 1)
    edges = np.concatenate([[low] if low < left else [], edges, [high] if high > right else []])
    ranks = np.searchsorted(ascending, edges[1:-1].astype(ascending.dtype), side="left")
    return edges, np.diff(np.concatenate([[0], ranks, [len(ascending)]]))


def spread_indices(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to `count` - 1, evenly spaced, ascending, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


_LEVELS = 256  # values up to which weights count as quantized


def levels_of(weights: Float[np.ndarray, "units weights"]) -> int | None:
    """How many values the weights of a layer take, where these are few for their number, or how many levels the even
    grid has on which those of each unit lie, whichever is fewer. None where neither is so: they are not quantized.
    """
    distinct = len(np.unique(weights))
    counts = [distinct] if distinct <= min(_LEVELS, weights.size // 8) else []
    rows = weights if weights.shape[1] >= 8 else weights.T
    rows = rows[(rows != 0).any(1)]
    every = [_grid(row) for row in rows[:: max(1, len(rows) // 64)]] if rows.shape[1] >= 8 else [_grid(weights)]
    levels = [count for count in every if count is not None]
    if levels and len(levels) >= 0.95 * len(every):
        counts.append(max(levels))
    return min(counts, default=None)


def _grid(values: Float[np.ndarray, "*shape"]) -> int | None:
    """Levels of the even grid on which all values lie; None where they lie on none of at most `_LEVELS` levels."""
    points = np.unique(values.astype(np.float64))
    if len(points) < 2:
        return len(points)
    above = points - points[0]
    for parts in (1, 2, 3):  # the least gap may be of several steps
        step = np.diff(points).min() / parts
        if above[-1] / step > _LEVELS:
            return None
        if np.abs(above / step - np.rint(above / step)).max() < 0.02:
            return round(float(above[-1] / step)) + 1
    return None
