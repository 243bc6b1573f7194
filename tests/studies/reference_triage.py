"""Slow, independent versions of what the study `triage` computes."""

from __future__ import annotations

import itertools
import math

import numpy as np


def cochran_q(right: np.ndarray) -> float:
    """Q image by image: (k - 1) (k sum G^2 - (sum G)^2) / (k sum L - sum L^2)."""
    n, k = right.shape
    treated = [sum(int(right[i, j]) for i in range(n)) for j in range(k)]
    images = [sum(int(right[i, j]) for j in range(k)) for i in range(n)]
    above = k * sum(g * g for g in treated) - sum(treated) ** 2
    below = k * sum(images) - sum(hits * hits for hits in images)
    return (k - 1) * above / below if below else 0.0  # all agree on every image


def permutation_p(scores: np.ndarray) -> float:
    """Share of all arrangements of each row, the first one's too, that spread the columns' means at least as much."""
    rows, k = scores.shape

    def spread(table: list[tuple[float, ...]]) -> float:
        means = [sum(row[j] for row in table) / rows for j in range(k)]
        return float(np.var(means))

    seen = spread([tuple(row) for row in scores])
    ways = itertools.product(*(itertools.permutations(row) for row in scores))
    spreads = [spread(list(way)) for way in ways]
    return sum(value >= seen - 1e-12 for value in spreads) / len(spreads)


def keras_plateau(losses: list[float], factor: float, patience: int, cooldown: int, least: float) -> list[float]:
    """The scale of the rate in each epoch by the rule of Keras' ReduceLROnPlateau, with a relative improvement.

    Source: Chollet and others, Keras, `ReduceLROnPlateau.on_epoch_end`; written out again from its description.
    """
    scale, best, wait, resting, scales = 1.0, math.inf, 0, 0, []
    for loss in losses:
        scales.append(scale)
        if resting > 0:
            resting -= 1
            wait = 0
        if loss < best * (1 - 1e-4):
            best, wait = loss, 0
        elif resting == 0:
            wait += 1
            if wait >= patience:
                scale, resting, wait = max(scale * factor, least), cooldown, 0
    return scales


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each channel of a with each of b, (n, channel, *space), by numpy."""
    x, y = (np.moveaxis(v, 1, 0).reshape(v.shape[1], -1).astype(np.float64) for v in (a, b))
    return np.array([[np.corrcoef(p, q)[0, 1] for q in y] for p in x])
