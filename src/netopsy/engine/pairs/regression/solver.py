"""The minimum of w'Gw/2 - c'w + strength |w|_1 for many c at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def solve(
    gram: Float64[np.ndarray, "q q"],
    targets: Float64[np.ndarray, "p q"],
    strength: float,
    start: Float64[np.ndarray, "p q"],
) -> Float64[np.ndarray, "p q"]:
    """The weights (p, q), from `start`, by coordinate descent over the predictors."""
    w = start.copy()
    slope = targets - w @ gram
    for _ in range(10_000):
        largest = 0.0
        for j in range(len(gram)):
            inner = slope[:, j] + gram[j, j] * w[:, j]
            new = np.sign(inner) * np.maximum(np.abs(inner) - strength, 0) / gram[j, j]
            change = new - w[:, j]
            slope -= change[:, None] * gram[j]
            w[:, j] = new
            largest = max(largest, float(np.abs(change).max(initial=0)))
        if largest < 1e-12:
            break
    return w
