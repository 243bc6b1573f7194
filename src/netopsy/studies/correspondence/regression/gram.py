"""What all targets and all strengths share: the predictors' correlations and their inverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

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
