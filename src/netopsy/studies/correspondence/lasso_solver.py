"""The minimum of w'Gw/2 - c'w + strength |w|_1 for many targets c and strengths at once, with a certificate in float64.

A rough minimum by few large matrix products says which weights are zero, mostly; exact rounds minimise over the others.
The predictors' correlations and their inverse serve all targets and strengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.linalg.lapack import dposv

RIDGE = 1e-12
"""Added to the diagonal where a system is solved: copies of a unit make it singular."""

_SPREAD = 1e-3  # eigenvalues below this share of the largest do not slow the splitting down


@dataclass(frozen=True)
class Gram:
    """matrix: correlations of q predictors, none dead, as a positive semidefinite matrix.

    step: of the splitting method, and inverse: step (matrix + step)^-1. padded: matrix with a ridge, and with a row and
    a column of zeros at the end, which fill systems of unequal size up.
    """

    matrix: Float64[np.ndarray, "q q"]
    step: float
    inverse: Float32[np.ndarray, "q q"]
    padded: Float64[np.ndarray, "q+1 q+1"]


def prepare(matrix: Float64[np.ndarray, "q q"]) -> Gram:
    """The shared part for `matrix` (q, q), q at least 1.

    An eigenvalue that rounding made negative is lifted to zero by adding its magnitude to the diagonal. The step is the
    geometric mean of the extreme eigenvalues, the best for a quadratic: Ghadimi, Teixeira, Shames, Johansson, "Optimal
    parameter selection for the alternating direction method of multipliers", IEEE Transactions on Automatic Control 60
    (2015).
    """
    values, vectors = np.linalg.eigh(matrix)
    lift = max(0.0, -float(values[0]))
    matrix = matrix + lift * np.eye(len(matrix)) if lift else matrix
    values = values + lift
    step = float(np.sqrt(max(values[0], _SPREAD * values[-1]) * values[-1]))
    inverse = (vectors * (step / (values + step))) @ vectors.T
    padded = np.pad(matrix, (0, 1))
    padded[np.arange(len(matrix)), np.arange(len(matrix))] += RIDGE
    return Gram(matrix, step, inverse.astype(np.float32), padded)


_BURST = 10  # steps between two looks at which weights are zero
_MOST = 40  # bursts
_SETTLED = 1.0  # weights a target, on average, that become or cease to be zero in a burst: exact rounds mend so few

_RELAXATION = np.float32(1.6)


def approach(
    gram: Gram, targets: Float64[np.ndarray, "p q"], strength: float, start: Float64[np.ndarray, "p q"]
) -> Float64[np.ndarray, "p q"]:
    """Weights near the minimum of w'Gw/2 - c'w + strength |w|_1, in float32, with exact zeros.

    The alternating direction method of multipliers: Boyd, Parikh, Chu, Peleato, Eckstein, "Distributed optimization and
    statistical learning via the alternating direction method of multipliers", Foundations and Trends in Machine
    Learning 3 (2011), Section 6.4; over-relaxed as in their Section 3.4.3.
    """
    bound = np.float32(strength / gram.step)
    fixed = (targets / gram.step).astype(np.float32) @ gram.inverse
    sparse = start.astype(np.float32)
    dual = ((targets - start @ gram.matrix) / gram.step).astype(np.float32).clip(-bound, bound)
    smooth, spare = np.empty_like(sparse), np.empty_like(sparse)
    pattern = sparse != 0
    for _ in range(_MOST):
        for _ in range(_BURST):
            np.subtract(sparse, dual, out=spare)
            np.matmul(spare, gram.inverse, out=smooth)
            smooth += fixed
            smooth *= _RELAXATION
            sparse *= _RELAXATION - 1
            smooth -= sparse
            smooth += dual
            np.clip(smooth, -bound, bound, out=dual)
            np.subtract(smooth, dual, out=sparse)
        before, pattern = pattern, sparse != 0
        if (pattern != before).sum() <= _SETTLED * len(sparse):
            break
    return sparse.astype(np.float64)


_ENTRIES = 2**21  # of all systems that are solved together: 16 MB


def advance(
    gram: Gram,
    w: Float64[np.ndarray, "p q"],
    slope: Float64[np.ndarray, "p q"],
    chosen: Bool[np.ndarray, "p q"],
    strength: float,
) -> tuple[Float64[np.ndarray, "p q"], Bool[np.ndarray, " p"]]:
    """Weights after a Newton step over the `chosen` ones, and for which targets the objective fell.

    w: the weights. slope: targets - w gram. chosen: all weights that are not zero, and those that may become so.
    The step solves for the chosen weights with their signs held. Where signs change on the way it goes to the lowest
    point along the line, or sets all that changed to zero, whichever is lower. No step raises the objective.
    Source: Lee, Battle, Raina, Ng, "Efficient sparse coding algorithms", NIPS 2006, Algorithm 1 (feature-sign search),
    here with several weights joining in a round.
    """
    out, fell = w.copy(), np.zeros(len(w), bool)
    size = chosen.sum(1)
    order = np.argsort(size, kind="stable")
    first = 0
    while first < len(order):
        rows = order[first : first + 64]
        widest = max(1, int(size[rows[-1]]))
        rows = rows[: max(1, _ENTRIES // widest**2)]
        first += len(rows)
        out[rows], fell[rows] = _together(gram, w[rows], slope[rows], chosen[rows], strength)
    return out, fell


def _together(
    gram: Gram, w: np.ndarray, slope: np.ndarray, chosen: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """`advance` for targets with about as many chosen weights, as systems of one size k."""
    q = w.shape[1]
    k = max(1, int(chosen.sum(1).max()))
    places = np.argsort(~chosen, 1, kind="stable")[:, :k]
    real = np.take_along_axis(chosen, places, 1)
    at = np.where(real, places, q)
    matrix = gram.padded.ravel()[at[:, :, None] * (q + 1) + at[:, None, :]]
    x, g = (np.where(real, np.take_along_axis(v, places, 1), 0.0) for v in (w, slope))
    sign = np.where(x != 0, np.sign(x), np.sign(g))
    filled = np.arange(k)
    matrix[:, filled, filled] += ~real
    step = _solve(matrix, g - strength * sign)
    step[(x == 0) & (step * sign < 0)] = 0.0  # joins only with the sign that lowers the objective

    def change(new: np.ndarray) -> np.ndarray:
        by = new - x
        curve = np.einsum("pk,pk->p", (matrix @ by[..., None])[..., 0], by)
        return 0.5 * curve - (g * by).sum(1) + strength * (np.abs(new) - np.abs(x)).sum(1)

    full = x + step
    cut = np.where(full * sign < 0, 0.0, full)
    best, fall = cut, change(cut)
    crossing = (full * sign < 0).any(1)
    if crossing.any():
        curve = np.einsum("pk,pk->p", (matrix @ step[..., None])[..., 0], step)
        along = _lowest(x, step, (g * step).sum(1), curve, strength)
        other = change(along)
        best = np.where((other < fall)[:, None], along, best)
        fall = np.minimum(fall, other)
    new = w.copy()
    np.put_along_axis(new, places, np.where(real, best, np.take_along_axis(w, places, 1)), 1)
    fell = fall < 0
    return np.where(fell[:, None], new, w), fell


def _solve(matrices: Float64[np.ndarray, "p k k"], sides: Float64[np.ndarray, "p k"]) -> Float64[np.ndarray, "p k"]:
    """The solution of each symmetric system, by Cholesky; where that fails, the shortest of least squares."""
    solutions = np.empty_like(sides)
    for i, (matrix, side) in enumerate(zip(matrices, sides, strict=True)):  # half the work of numpy's batched one
        _, solutions[i], failed = dposv(matrix.T, side)
        if failed:
            solutions[i] = np.linalg.lstsq(matrix, side)[0]
    return solutions


def _lowest(
    x: Float64[np.ndarray, "p k"],
    step: Float64[np.ndarray, "p k"],
    rise: Float64[np.ndarray, " p"],
    curve: Float64[np.ndarray, " p"],
    strength: float,
) -> Float64[np.ndarray, "p k"]:
    """The lowest point over t >= 0 of t^2 curve / 2 - t rise + strength |x + t step|_1.

    A weight that passes zero just there is exactly 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        turns = np.where(x * step < 0, -x / step, np.inf)  # where each weight passes zero
    order = np.argsort(turns, 1)
    sorted_turns = np.take_along_axis(turns, order, 1)
    before = (np.where(x != 0, np.sign(x), np.sign(step)) * step).sum(1, keepdims=True)
    gained = np.cumsum(2 * np.abs(np.take_along_axis(step, order, 1)), 1)
    slopes = np.concatenate([before, before + gained], 1)  # of |x + t step|_1, on each of the k + 1 pieces
    with np.errstate(over="ignore"):  # no curvature: the minimum lies at an edge
        stationary = (rise[:, None] - strength * slopes) / np.maximum(curve, np.finfo(float).tiny)[:, None]
    edge = np.zeros((len(x), 1))
    starts, ends = np.concatenate([edge, sorted_turns], 1), np.concatenate([sorted_turns, edge + np.inf], 1)
    piece = (stationary <= ends).argmax(1)[:, None]
    t = np.maximum(np.take_along_axis(stationary, piece, 1), np.take_along_axis(starts, piece, 1))
    t = np.where(np.isfinite(t), t, 0.0)
    return np.where(turns == t, 0.0, x + t * step)


class LassoCertificate(NamedTuple):
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
) -> LassoCertificate:
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
    return LassoCertificate(error, 0.5 * error + penalty, np.maximum(gap, 0.0))


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
        weights = w[rows]
        moved, fell = advance(
            gram, weights, slope[rows], _choose(weights, slope[rows], strength, limit[rows]), strength
        )
        w[rows] = moved
        slope[rows] = targets[rows] - moved @ gram.matrix
        limit[rows] = np.where(fell, np.where(limit[rows] == 0, 1, len(gram.matrix)), np.where(limit[rows] > 0, 0, 1))
        gap = certify(gram.matrix, targets[rows], strength, moved, slope[rows]).gap
        rows = rows[gap > TOLERANCE]
    return w


def _choose(
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
