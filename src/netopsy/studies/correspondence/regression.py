"""Each unit of one layer as a linear combination of the units of another, and how alike layers are, from co-moments.

With an L1 penalty for all units and a path of strengths at once, or without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from netopsy.errors import SettingsError
from netopsy.studies.correspondence.comoments.pair import Pair
from netopsy.studies.correspondence.lasso_solver import certify, prepare, solve

EXPONENTS = (-4.0, -3.0, -2.8, -2.6, -2.0)
"""Of ten: the decays that Li et al. tried."""

_TOGETHER = 512  # units of A in one batch: bounds the memory


@dataclass(frozen=True)
class LassoPath:
    """The minimum over w of |y - B w|^2 / 2n + strength |w|_1, for each unit y of A, all of mean 0 and variance 1.

    strengths: as given. errors: mean squared error |y - B w|^2 / n, 0..1 (1 for a dead unit). used: weights that are
    not exactly 0; where units of B depend on one another linearly the minimum is not unique, and the number is that of
    the weights found. objectives: of the weights found. gaps: by how much an objective can exceed the least possible
    one at most (duality gap, float64). coefficients: by strength, unit of A and unit of B, or None unless asked for.
    live: the units of A that are not dead.
    """

    strengths: tuple[float, ...]
    errors: Float64[np.ndarray, "s p"]
    used: Int64[np.ndarray, "s p"]
    objectives: Float64[np.ndarray, "s p"]
    gaps: Float64[np.ndarray, "s p"]
    live: Bool[np.ndarray, " p"]
    coefficients: Float64[np.ndarray, "s p q"] | None = None

    @property
    def mean_error(self) -> Float64[np.ndarray, " s"]:
        """Mean error of the live units of A at each strength; 1 where there are none."""
        return self.errors[:, self.live].mean(1) if self.live.any() else np.ones(len(self.strengths))

    @property
    def mean_used(self) -> Float64[np.ndarray, " s"]:
        """Mean number of units of B used for a live unit of A at each strength."""
        return self.used[:, self.live].mean(1) if self.live.any() else np.zeros(len(self.strengths))


def strength_of_decay(exponent: float, units: int) -> float:
    """The strength that equals the authors' decay of 10^exponent on a layer of `units` units: units * 10^exponent.

    They minimised the mean over the units of A of |y - B w|^2 / 2n, plus decay |w|_1 over all units together, so that
    each unit for itself pays `units` times the decay. The loss that they print is that mean, half the squared error:
    0.5 says nothing, and 0.170 leaves 0.34 of the variance.
    """
    return units * 10.0**exponent


def lasso_path(pair: Pair, strengths: Sequence[float] | None = None, *, coefficients: bool = False) -> LassoPath:
    """The exact solutions for every unit of A at every strength.

    strengths: above 0, in any order; by default those of Li et al. (`EXPONENTS`) for this many units of A. The
    objective is that of scikit-learn's Lasso with alpha = strength on units of mean 0 and variance 1.
    Errors: SettingsError for a strength that is not above 0.
    """
    chosen = [strength_of_decay(x, len(pair.mean_a)) for x in EXPONENTS] if strengths is None else list(strengths)
    for strength in chosen:
        if not 0 < strength < np.inf:
            raise SettingsError(f"strength {strength} of the L1 penalty must be above 0; use least_squares for none.")
    a, b = np.flatnonzero(~pair.dead_a), np.flatnonzero(~pair.dead_b)
    gram, targets = pair.correlation_bb[np.ix_(b, b)], pair.correlation[np.ix_(a, b)]
    s, (p, q) = len(chosen), pair.correlation.shape
    errors, objectives = np.ones((s, p)), np.full((s, p), 0.5)
    used, gaps = np.zeros((s, p), np.int64), np.zeros((s, p))
    weights = np.zeros((s, p, q)) if coefficients else None
    shared = prepare(gram) if len(b) else None
    for first in range(0, len(a), _TOGETHER):
        rows = slice(first, first + _TOGETHER)
        part, w = targets[rows], np.zeros_like(targets[rows])
        for i in sorted(range(s), key=lambda i: -chosen[i]):
            w = w if shared is None else solve(shared, part, chosen[i], w)
            certificate = certify(gram, part, chosen[i], w)
            errors[i, a[rows]], objectives[i, a[rows]], gaps[i, a[rows]] = certificate
            used[i, a[rows]] = (w != 0).sum(1)
            if weights is not None:
                weights[i][np.ix_(a[rows], b)] = w
    return LassoPath(tuple(chosen), errors, used, objectives, gaps, ~pair.dead_a, weights)


ROUNDING = 1e-6
"""Directions with less than this share of the variance of the strongest are rounding of float32 values."""


@dataclass(frozen=True)
class LeastSquares:
    """How well the units of B predict each unit of A, all of mean 0 and variance 1.

    errors: mean squared error, 0..1; 1 where the unit is dead or B has no live unit. live: the units of A that are not
    dead. used: units of B in each prediction, all live ones. rank: dimensions that they span.
    """

    errors: Float64[np.ndarray, " p"]
    live: Bool[np.ndarray, " p"]
    used: int
    rank: int

    @property
    def mean(self) -> float:
        """Mean error of the live units of A; 1 where there are none."""
        return float(self.errors[self.live].mean()) if self.live.any() else 1.0


def least_squares(pair: Pair) -> LeastSquares:
    """Each unit of A from all units of B.

    The error is over the same rows as the fit: with k independent predictors on n independent rows chance alone
    explains k / n. `least_squares(pair.control())` says what it is here, where rows of one image are not independent.
    Source: Li et al., Convergent Learning, ICLR 2016, Section 4 (their regression without decay).
    """
    b = np.flatnonzero(~pair.dead_b)
    shares, rank = _explained_variance(pair.correlation_bb[np.ix_(b, b)], pair.correlation[:, b].T)
    return LeastSquares(1 - shares, ~pair.dead_a, len(b), rank)


def explained_variance(
    gram: Float64[np.ndarray, "q q"], targets: Float64[np.ndarray, "q p"]
) -> Float64[np.ndarray, " p"]:
    """Share of the variance of each target that q predictors explain, 0..1.

    gram: correlations of the predictors. targets: their correlations with each target.
    """
    return _explained_variance(gram, targets)[0]


def _explained_variance(gram: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, int]:
    if not len(gram):
        return np.zeros(targets.shape[1]), 0
    values, vectors = np.linalg.eigh(gram)
    nonzero = values > ROUNDING * values[-1]
    shares = ((vectors[:, nonzero].T @ targets) ** 2 / values[nonzero, None]).sum(0)
    return np.clip(shares, 0, 1), int(nonzero.sum())


ROUNDING = 1e-6
"""Eigenvalues below this share of the largest are rounding: the co-moments come from float32 values."""


def linear_cka(pair: Pair) -> float:
    """Centred kernel alignment with linear kernels: |A'B|^2 / (|A'A| |B'B|), Frobenius norms of the co-moments.

    Source: Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network representations revisited", ICML 2019,
    Section 3 (linear CKA by features). It is biased upwards where the rows are not many more than the units.
    """
    aa, bb, ab = _live(pair)
    scale = float(np.linalg.norm(aa) * np.linalg.norm(bb))
    return _share(float(np.linalg.norm(ab)) ** 2 / scale) if scale > 0 else 0.0


def procrustes(pair: Pair) -> float:
    """The nuclear norm of A'B with A and B of Frobenius norm 1: 1 - d/2, d the squared Procrustes distance.

    d is the least |A - B R|^2 over all rotations R. Source: Schönemann, "A generalized solution of the orthogonal
    Procrustes problem", Psychometrika 31 (1966); as an index of similarity Ding, Denain, Steinhardt, "Grounding
    representation similarity through statistical testing", NeurIPS 2021, Section 2.
    """
    aa, bb, ab = _live(pair)
    scale = np.sqrt(np.trace(aa)) * np.sqrt(np.trace(bb))
    return _share(np.linalg.svd(ab, compute_uv=False).sum() / scale) if scale > 0 else 0.0


def svcca(pair: Pair, share: float = 0.99) -> float:
    """Mean canonical correlation between the leading principal components of A and of B.

    share: of the variance that the components kept must hold, above 0 to 1. The mean is over as many correlations as
    the smaller side has components. Source: Raghu, Gilmer, Yosinski, Sohl-Dickstein, "SVCCA", NIPS 2017, Section 2.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"share {share} must be above 0 and at most 1: of the variance that SVCCA keeps.")
    aa, bb, ab = _live(pair)
    a, b = _whitener(aa, share), _whitener(bb, share)
    correlations = np.linalg.svd(a.T @ ab @ b, compute_uv=False)
    return _share(correlations.mean()) if len(correlations) else 0.0


def pwcca(pair: Pair) -> float:
    """Mean canonical correlation, weighted by how much of A each canonical direction of A accounts for.

    The weight of a direction h is the sum over the units z of A of |<h, z>|; there are as many directions as the
    smaller side has dimensions. Take `pair.swapped()` for the weights of B (the authors' code takes those of the
    smaller side). Source: Morcos, Raghu, Bengio, "Insights on representational similarity in neural networks with
    canonical correlation", NeurIPS 2018, Section 3.
    """
    aa, bb, ab = _live(pair)
    a, b = _whitener(aa, 1.0), _whitener(bb, 1.0)
    if not a.size or not b.size:
        return 0.0
    directions, correlations, _ = np.linalg.svd(a.T @ ab @ b, full_matrices=False)
    weights = np.abs(aa @ a @ directions).sum(0)
    return _share(float(weights @ correlations) / weights.sum())


def _live(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """aa, bb and ab of the live units."""
    a, b = np.flatnonzero(~pair.dead_a), np.flatnonzero(~pair.dead_b)
    return pair.aa[np.ix_(a, a)], pair.bb[np.ix_(b, b)], pair.ab[np.ix_(a, b)]


def _whitener(moments: Float64[np.ndarray, "p p"], share: float) -> Float64[np.ndarray, "p k"]:
    """Columns that turn the units into uncorrelated components of norm 1; k of them hold `share` of the variance.

    With share 1 all but rounding: the units are brought to one variance first, so that no unit is lost for its scale.
    """
    if not len(moments):
        return moments
    scale = np.sqrt(np.diag(moments)) if share == 1 else np.ones(len(moments))
    values, vectors = np.linalg.eigh(moments / np.outer(scale, scale))
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = values > ROUNDING * values[0]
    if share < 1:
        cumulative = np.cumsum(np.maximum(values, 0)) / np.maximum(values, 0).sum()
        keep &= np.arange(len(values)) <= np.searchsorted(cumulative, share)
    return vectors[:, keep] / scale[:, None] / np.sqrt(values[keep])


def _share(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))
