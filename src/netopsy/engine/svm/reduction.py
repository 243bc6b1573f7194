"""Features with more dimensions than samples, turned into as many dimensions as samples.

Weights that minimise the objective are sums of samples, w = x^T b, so only the inner products x x^T matter; a square
root of that matrix is a shorter set of features with the same solution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.svm.preconditioner import RANK

_STEPS = 25  # of a typical fit


@dataclass(frozen=True)
class Reduction:
    """x = root @ (some orthonormal rows). root: (n, n), lower triangular."""

    x: Float[Tensor, "n p"]
    root: Float[Tensor, "n n"]

    def forth(self, coefficients: Float[Tensor, "p+1 classes"]) -> Float[Tensor, "n+1 classes"]:
        """Coefficients of x as coefficients of `root` with the same scores."""
        scores = self.x @ coefficients[:-1]
        return torch.cat([torch.linalg.solve_triangular(self.root, scores, upper=False), coefficients[-1:]])

    def back(self, coefficients: Float[Tensor, "n+1 classes"]) -> Float[Tensor, "p+1 classes"]:
        """Coefficients of `root` as coefficients of x."""
        root = self.root.double()
        shares = torch.linalg.solve_triangular(root.T, coefficients[:-1].double(), upper=True)
        return torch.cat([self.x.T @ shares.to(self.x.dtype), coefficients[-1:]])


def reduction(x: Float[Tensor, "n p"], gram: Float[Tensor, "n n"] | None = None) -> Reduction:
    """The reduction of x. gram: x x^T, if it is known.

    A singular Gram matrix (equal samples) gets a diagonal as small as rounding allows; the certificate of a fit is
    computed from x itself and sees what that changed.
    """
    known = (x @ x.T if gram is None else gram).double()
    size = known.diagonal().mean().clamp_min(torch.finfo(x.dtype).tiny)
    jitter = size * torch.finfo(x.dtype).eps * 10
    while True:
        shifted = known.clone()
        shifted.diagonal().add_(jitter)
        root, failed = torch.linalg.cholesky_ex(shifted)
        if not failed or not torch.isfinite(size):
            return Reduction(x, root.to(x.dtype))
        jitter = jitter * 10


def pays(n: int, sizes: Iterable[int], classes: int) -> bool:
    """Whether machines on the leading `sizes` of n samples' columns take fewer operations on reduced features."""
    widths = list(sizes)
    step = 4 * n * (_STEPS * classes + RANK)
    plain = step * sum(widths)
    reduced = 2 * n * n * max(widths) + len(widths) * (step * n + n**3 / 3)
    return reduced < plain
