"""The minimum of w'Gw/2 - c'w + strength |w|_1 for many c at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from netopsy.studies.correspondence.regression.active import advance
from netopsy.studies.correspondence.regression.certificate import certify
from netopsy.studies.correspondence.regression.gram import Gram
from netopsy.studies.correspondence.regression.splitting import approach

TOLERANCE = 1e-11
"""A target is done when its objective exceeds the least possible one by at most this; a variance is 1."""

_ROUNDS = 500  # far more than any problem took; what is not done by then says so by its gap
_FAR = 8  # violated conditions a target, on average, from which a rough approach pays before the exact rounds
_NOISE = 1e-13  # of a slope in float64


def solve(
    gram: Gram, targets: Float64[np.ndarray, "p q"], strength: float, start: Float64[np.ndarray, "p q"]
) -> Float64[np.ndarray, "p q"]:
    """The weights of each target, from the weights `start` (of a larger strength, or zeros).

    targets: correlations of the targets with the predictors. Far from the minimum a splitting method finds most zeros
    with matrix products; then rounds of exact minimisation over the nonzero weights end at the minimum itself, since
    each lowers the objective and there are finitely many patterns of signs. Each round lets the weights whose
    optimality condition is violated most join. A target that a round could not lower first settles the weights that it
    has, and then takes one more at a time, which always lowers it.
    """
    w = start.copy()
    slope = targets - w @ gram.matrix
    if (np.abs(slope) > strength * (1 + 1e-6)).sum() > _FAR * len(w):
        w = approach(gram, targets, strength, start)
        slope = targets - w @ gram.matrix
    rows = np.flatnonzero((w != 0).any(1) | (np.abs(slope) > strength).any(1))
    limit = np.full(len(w), gram.matrix.shape[0])
    for _ in range(_ROUNDS):
        if not len(rows):
            break
        held = w[rows]
        moved, fell = advance(gram, held, slope[rows], _chosen(held, slope[rows], strength, limit[rows]), strength)
        w[rows] = moved
        slope[rows] = targets[rows] - moved @ gram.matrix
        limit[rows] = np.where(fell, np.where(limit[rows] == 0, 1, len(gram.matrix)), np.where(limit[rows] > 0, 0, 1))
        gap = certify(gram.matrix, targets[rows], strength, moved, slope[rows]).gap
        rows = rows[gap > TOLERANCE]
    return w


def _chosen(
    w: Float64[np.ndarray, "p q"], slope: Float64[np.ndarray, "p q"], strength: float, limit: Int64[np.ndarray, " p"]
) -> Bool[np.ndarray, "p q"]:
    """The weights that a round may move: those not zero, and the most violated others, `limit` or half as many."""
    now = w != 0
    excess = np.where(now, 0.0, np.abs(slope) - strength)
    joining = excess > _NOISE
    most = np.minimum(limit, np.maximum(8, now.sum(1) // 2))
    many = np.flatnonzero(joining.sum(1) > most)
    if len(many):
        order = np.argsort(-excess[many], 1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(w.shape[1])[None], 1)
        joining[many] &= rank < most[many, None]
    return now | joining
