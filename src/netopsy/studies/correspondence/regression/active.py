"""One exact round: minimise over the weights that are not zero, for many targets at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64
from scipy.linalg.lapack import dposv

from netopsy.studies.correspondence.regression.gram import Gram

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
    step = _solved(matrix, g - strength * sign)
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


def _solved(matrices: Float64[np.ndarray, "p k k"], sides: Float64[np.ndarray, "p k"]) -> Float64[np.ndarray, "p k"]:
    """The solution of each symmetric system, by Cholesky; where that fails, the shortest of least squares."""
    found = np.empty_like(sides)
    for i, (matrix, side) in enumerate(zip(matrices, sides, strict=True)):  # half the work of numpy's batched one
        _, found[i], failed = dposv(matrix.T, side)
        if failed:
            found[i] = np.linalg.lstsq(matrix, side)[0]
    return found


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
