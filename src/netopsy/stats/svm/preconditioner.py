"""The curvature that all classes share: the leading directions of one Gram matrix.

The Hessian of class k is I + slope X^T D_k X with D_k the mask of its support vectors. All of them are near
I + slope s X^T X with s the mean share of support vectors, whose leading eigenvectors a single product with a few
random vectors finds (randomised Nyström preconditioning; Frangella, Tropp and Udell, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.stats.svm.design import Design

RANK = 64
WHOLE = 256  # up to so many coefficients all directions are taken


@dataclass(frozen=True)
class Curvature:
    """Leading eigenvectors (p + 1, rank) of [x, 1]^T [x, 1], orthonormal, and their eigenvalues (rank,)."""

    directions: Float[Tensor, "p+1 rank"]
    eigenvalues: Float[Tensor, " rank"]

    def solve(
        self, gradient: Float[Tensor, "p+1 classes"], weight: Float[Tensor, " classes"]
    ) -> Float[Tensor, "p+1 classes"]:
        """(I + weight * Gram)^-1 gradient; what the directions leave counts as the smallest eigenvalue."""
        inside = self.directions.T @ gradient
        rest = 1 / (1 + weight * self.eigenvalues.min())
        within = 1 / (1 + weight * self.eigenvalues[:, None])
        return gradient * rest + self.directions @ (inside * (within - rest))


def curvature(design: Design, *, rank: int = RANK, seed: int = 0) -> Curvature:
    """The curvature of `design`; exact up to 256 coefficients."""
    p = design.shape[1]
    if p <= WHOLE:
        basis = torch.eye(p, dtype=design.x.dtype, device=design.x.device)
    else:
        draw = torch.Generator().manual_seed(seed)
        start = torch.randn(p, rank, generator=draw).to(design.x)
        basis = torch.linalg.qr(design.adjoint(design.forward(start)))[0]
    image = design.forward(basis)
    values, vectors = torch.linalg.eigh(image.T @ image)
    return Curvature(basis @ vectors, values.clamp_min(0))
