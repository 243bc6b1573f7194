"""Regression without a penalty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from netopsy.studies.correspondence.comoments.pair import Pair

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
    shares, rank = _explained(pair.correlation_bb[np.ix_(b, b)], pair.correlation[:, b].T)
    return LeastSquares(1 - shares, ~pair.dead_a, len(b), rank)


def explained(gram: Float64[np.ndarray, "q q"], targets: Float64[np.ndarray, "q p"]) -> Float64[np.ndarray, " p"]:
    """Share of the variance of each target that q predictors explain, 0..1.

    gram: correlations of the predictors. targets: their correlations with each target.
    """
    return _explained(gram, targets)[0]


def _explained(gram: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, int]:
    if not len(gram):
        return np.zeros(targets.shape[1]), 0
    values, vectors = np.linalg.eigh(gram)
    kept = values > ROUNDING * values[-1]
    shares = ((vectors[:, kept].T @ targets) ** 2 / values[kept, None]).sum(0)
    return np.clip(shares, 0, 1), int(kept.sum())
