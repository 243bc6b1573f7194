"""Slow twins of what `prescribe` computes: written from the definitions, loop by loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def smallest_within(layers: Sequence[Sequence[tuple[float, float]]], limit: float) -> float:
    """The fewest bytes of all allocations whose total loss is at most `limit`: every one of them is tried."""
    totals = (tuple(map(sum, zip(*picked, strict=True))) for picked in itertools.product(*layers))
    return min((size for size, loss in totals if loss <= limit), default=math.inf)


def cheapest_multiples(values: NDArray[np.float64], step: float, pull: float, bits: dict[int, float]) -> list[int]:
    """For each value the multiple of `step` of the least squared error (in step^2) + pull * bits, all of them tried."""
    return [min(bits, key=lambda k: (value / step - k) ** 2 + pull * bits[k]) for value in values]


def surgeon(weight: NDArray[np.float64], gram: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Optimal brain quantisation in the order of the columns: after each one the least-squares update of the rest.

    Row by row: w_q takes its nearest value of `table`, and the others move by -(w_q - q) / [H^-1]_qq * H^-1[:, q],
    where H is the part of `gram` of the columns that are still free (Hassibi & Stork, 1993, Equation 5).
    """
    out = np.empty_like(weight)
    for r, row in enumerate(weight):
        left = row.copy()
        for q in range(len(row)):
            inverse = np.linalg.inv(gram[q:, q:])
            out[r, q] = table[np.abs(table - left[q]).argmin()]
            left[q:] -= (left[q] - out[r, q]) / inverse[0, 0] * inverse[:, 0]
    return out


def pooled(heights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `heights`: max over starts of min over ends of the mean between."""
    n = len(heights)
    return [
        max(min(sum(heights[a : b + 1]) / (b + 1 - a) for b in range(i, n)) for a in range(i + 1)) for i in range(n)
    ]
