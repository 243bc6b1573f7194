"""Slow, independent versions of what is computed from co-moments: from the raw values, by the definitions."""

from __future__ import annotations

import itertools
import math

import networkx
import numpy as np
from scipy.linalg import qr, subspace_angles
from sklearn.linear_model import Lasso
from sklearn.metrics import mutual_info_score

from netopsy.studies.correspondence.comoments.pair import Pair


def pair_of(a: np.ndarray, b: np.ndarray, shuffled: np.ndarray | None = None) -> Pair:
    """The co-moments of values a (rows, p) and b (rows, q); shuffled: b in another order."""
    x, y = a - a.mean(0), b - b.mean(0)
    other = None if shuffled is None else x.T @ (shuffled - shuffled.mean(0))
    return Pair("a", "b", len(a), len(a), (), a.mean(0), b.mean(0), x.T @ x, y.T @ y, x.T @ y, other)


def standard(values: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and variance 1; a constant one becomes 0."""
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-9, spread, np.inf)


def best_sum(correlation: np.ndarray) -> float:
    """The largest sum over all one-to-one matchings, each tried; p at most q."""
    p, q = correlation.shape
    return max(
        math.fsum(correlation[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(q), p)
    )


def heaviest_matching(correlation: np.ndarray) -> set[tuple[int, int]]:
    """The matching of most pairs and largest sum, by Edmonds' blossom algorithm."""
    graph = networkx.Graph()
    p, q = correlation.shape
    graph.add_weighted_edges_from((i, p + j, correlation[i, j]) for i in range(p) for j in range(q))
    pairs = networkx.max_weight_matching(graph, maxcardinality=True)
    return {(min(pair), max(pair) - p) for pair in pairs}


def least_squares_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared residual of each standardised column of a given those of b."""
    x, y = standard(b), standard(a)
    return ((y - x @ np.linalg.lstsq(x, y, rcond=1e-9)[0]) ** 2).mean(0)


def lasso_objective(a: np.ndarray, b: np.ndarray, strength: float, weights: np.ndarray) -> np.ndarray:
    """|y - B w|^2 / 2n + strength |w|_1 of each row of weights (p, q), from the values."""
    residual = standard(a) - standard(b) @ weights.T
    return 0.5 * (residual**2).mean(0) + strength * np.abs(weights).sum(1)


def lasso_weights(a: np.ndarray, b: np.ndarray, strength: float) -> np.ndarray:
    """scikit-learn's solution (p, q), nearly converged."""
    model = Lasso(strength, fit_intercept=False, tol=1e-12, max_iter=200_000)
    return np.atleast_2d(model.fit(standard(b), standard(a)).coef_)


def kernel_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA from the kernels of the rows, centred by the centring matrix."""
    n = len(a)
    centre = np.eye(n) - 1 / n
    k, m = centre @ a @ a.T @ centre, centre @ b @ b.T @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def canonical_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of the principal angles between the column spaces of the centred values, the largest first."""
    return np.sort(np.cos(subspace_angles(_basis(a), _basis(b))))[::-1]


def leading_components(values: np.ndarray, share: float) -> np.ndarray:
    """The fewest principal components of the rows that hold `share` of the variance."""
    u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    count = next(k for k in range(1, len(s) + 1) if (s[:k] ** 2).sum() >= share * (s**2).sum())
    return u[:, :count] * s[:count]


def projection_weighted(a: np.ndarray, b: np.ndarray) -> float:
    """PWCCA, with the canonical variates of a as vectors over the rows."""
    qa, qb = _basis(a), _basis(b)
    u, s, _ = np.linalg.svd(qa.T @ qb, full_matrices=False)
    variates = qa @ u
    weights = [sum(abs(h @ z) for z in (a - a.mean(0)).T) for h in variates.T]
    return float(np.dot(weights, s) / np.sum(weights))


def procrustes_distance(a: np.ndarray, b: np.ndarray) -> float:
    """min |A - B R|^2 over rotations R, for centred values of Frobenius norm 1, padded to one width."""
    wide = max(a.shape[1], b.shape[1])
    x, y = (np.pad(v - v.mean(0), ((0, 0), (0, wide - v.shape[1]))) for v in (a, b))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    u, _, v = np.linalg.svd(y.T @ x)
    return float(((x - y @ (u @ v)) ** 2).sum())


def binned(values: np.ndarray, warm: np.ndarray, bins: int) -> list[int]:
    """The bin of each value: 0 for zero, else one more than the edges that it reaches; edges from the values `warm`."""
    others = sorted(v for v in warm if v != 0)
    edges = [others[len(others) * i // bins] for i in range(1, bins)] if others else [0.0] * (bins - 1)
    return [0 if v == 0 else 1 + sum(v >= edge for edge in edges) for v in values]


def information(a: list[int], b: list[int]) -> tuple[float, float]:
    """scikit-learn's mutual information of two lists of bins in nats; and by how much Miller and Madow move it."""
    cells = len(set(a)) + len(set(b)) - len(set(zip(a, b, strict=True))) - 1
    return float(mutual_info_score(a, b)), cells / (2 * len(a))


def _basis(values: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the centred columns, by QR with pivots."""
    q, r, _ = qr(values - values.mean(0), mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    return q[:, size > 1e-7 * size[0]]
