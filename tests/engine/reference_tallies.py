"""Slow, independent versions of what the tallies count: all values at once, in float64 or in whole numbers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import scipy.stats
from torch import Tensor


def columns(values: Tensor, axis: int = 1) -> np.ndarray:
    """(batch, ...) -> float64 (values, channel)."""
    array = np.moveaxis(values.double().numpy(), axis, -1)
    return array.reshape(-1, array.shape[-1])


def moments(values: Tensor, axis: int = 1) -> dict[str, np.ndarray]:
    """Population moments per channel by their definitions, and scipy's skewness and excess kurtosis."""
    table = columns(values, axis)
    mean = np.array([math.fsum(c) / len(c) for c in table.T])
    variance = np.array([math.fsum((c - m) ** 2) / len(c) for c, m in zip(table.T, mean, strict=True)])
    return {
        "mean": mean,
        "variance": variance,
        "min": table.min(0),
        "max": table.max(0),
        "skewness": scipy.stats.skew(table, axis=0),
        "kurtosis": scipy.stats.kurtosis(table, axis=0),
    }


def zeros(values: Tensor, threshold: float = 0.0, axis: int = 1) -> list[int]:
    """Values of at most `threshold` in magnitude, per channel, one by one."""
    return [sum(abs(v) <= threshold for v in column) for column in columns(values, axis).T.tolist()]


def buckets(values: list[float]) -> dict[tuple[float, float], int]:
    """Normal float32 values counted by (left, right): sixteen equal buckets an octave, on either side of zero."""
    counts: Counter[tuple[float, float]] = Counter()
    for value in values:
        _, exponent = math.frexp(abs(value))
        width = 2.0 ** (exponent - 1) / 16
        low = math.floor(abs(value) / width) * width
        counts[(low, low + width) if value > 0 else (-low - width, -low)] += 1
    return dict(counts)
