"""How far a solution of the lasso can be from the best one, in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


class Certificate(NamedTuple):
    """Per target: the squared error, the objective, and by how much that can exceed the least possible one at most."""

    error: Float64[np.ndarray, " p"]
    objective: Float64[np.ndarray, " p"]
    gap: Float64[np.ndarray, " p"]


def certify(
    gram: Float64[np.ndarray, "q q"],
    targets: Float64[np.ndarray, "p q"],
    strength: float,
    w: Float64[np.ndarray, "p q"],
    gradient: Float64[np.ndarray, "p q"] | None = None,
) -> Certificate:
    """The duality gap of weights `w` for targets of variance 1.

    gram, targets: correlations of the predictors, and of each target with them. gradient: targets - w gram, if known.
    The dual point is the residual, shrunk until no predictor correlates more than `strength` with it.
    Source: Kim, Koh, Lustig, Boyd, Gorinevsky, "An interior-point method for large-scale l1-regularized least squares",
    IEEE Journal of Selected Topics in Signal Processing 1 (2007), Section III.
    """
    slope = targets - w @ gram if gradient is None else gradient
    fit, moved = (targets * w).sum(1), (slope * w).sum(1)
    error = np.maximum(1 - fit - moved, 0.0)  # |y|^2 - 2 y'Bw + |Bw|^2, over n
    penalty = strength * np.abs(w).sum(1)
    largest = np.abs(slope).max(1, initial=0.0)
    shrink = np.minimum(1.0, strength / np.maximum(largest, np.finfo(float).tiny))
    # primal minus dual, arranged so that nothing large cancels: at the optimum shrink is 1 and penalty equals w'slope
    gap = penalty - moved + 0.5 * (1 - shrink) ** 2 * error + (1 - shrink) * moved
    return Certificate(error, 0.5 * error + penalty, np.maximum(gap, 0.0))
