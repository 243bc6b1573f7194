"""Slow, independent k-means: every partition, the plain dynamic programme, the Lloyd-Max quantiser of a density."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.stats import norm


def least_error_1d(values: np.ndarray, k: int) -> float:
    """Least mean squared error of `k` clusters of numbers, by the quadratic dynamic programme over sorted values."""
    x = np.sort(np.asarray(values, np.float64).ravel())
    n = len(x)
    error = np.zeros((n + 1, n + 1))
    for i in range(n):
        for j in range(i + 1, n + 1):
            part = x[i:j]
            error[i, j] = ((part - part.mean()) ** 2).sum()
    best = error[0].copy()
    for _ in range(k - 1):
        best = np.array([min(best[i] + error[i, j] for i in range(j + 1)) for j in range(n + 1)])
    return float(best[n]) / n


def lloyd_1d(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Codes of Lloyd's iteration from given centroids, with all distances written out; (n,)."""
    codes = np.full(len(values), -1)
    while True:
        moved = np.abs(values[:, None] - centroids).argmin(1)
        if np.array_equal(moved, codes):
            return codes
        codes = moved
        centroids = np.array([values[codes == code].mean() for code in range(len(centroids))])


def least_error(vectors: np.ndarray, k: int) -> float:
    """Least mean squared distance of (n, d) vectors to `k` centroids, over every one of the k**n partitions."""
    x = np.asarray(vectors, np.float64)
    best = np.inf
    for codes in product(range(k), repeat=len(x)):
        labels = np.array(codes)
        parts = [x[labels == c] for c in set(codes)]
        best = min(best, sum(((part - part.mean(0)) ** 2).sum() for part in parts))
    return float(best) / len(x)


def lloyd_max_normal(k: int, iterations: int = 20_000) -> float:
    """Mean squared error of the best `k`-level quantiser of N(0, 1) (Max 1960), by its fixed point in closed form."""
    centroids = norm.ppf((np.arange(k) + 0.5) / k)
    for _ in range(iterations):
        cuts = np.concatenate([[-np.inf], (centroids[1:] + centroids[:-1]) / 2, [np.inf]])
        mass = np.diff(norm.cdf(cuts))
        moved = -np.diff(norm.pdf(cuts)) / mass
        if np.abs(moved - centroids).max() < 1e-13:
            break
        centroids = moved
    return float(1 - (mass * centroids**2).sum())
