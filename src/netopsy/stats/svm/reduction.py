"""Features with more dimensions than samples, turned into as many dimensions as samples.

Weights that minimise the objective are sums of samples, w = x^T b, so only the inner products x x^T matter; a square
root of that matrix is a shorter set of features with the same solution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from netopsy.stats.svm.solver import RANK

COLUMNS = 4096  # turned into float64 at a time
_STEPS = 25  # of a typical fit


@dataclass(frozen=True)
class Reduction:
    """x = root @ (some orthonormal rows). root: float64 (n, n), lower triangular."""

    x: Float[Tensor, "n p"]
    root: Float64[Tensor, "n n"]

    @property
    def features(self) -> Float[Tensor, "n n"]:
        """What takes the place of x, in its precision."""
        return self.root.to(self.x.dtype)

    def forth(self, coefficients: Float[Tensor, "p+1 classes"]) -> Float[Tensor, "n+1 classes"]:
        """Coefficients of x as coefficients of the `features` with the same scores."""
        scores = (self.x @ coefficients[:-1]).double()
        reduced = torch.linalg.solve_triangular(self.root, scores, upper=False)
        return torch.cat([reduced.to(self.x.dtype), coefficients[-1:]])

    def back(self, coefficients: Float[Tensor, "n+1 classes"]) -> Float[Tensor, "p+1 classes"]:
        """Coefficients of the `features` as coefficients of x; summed in float64, for what samples share cancels."""
        shares = torch.linalg.solve_triangular(self.root.T, coefficients[:-1].double(), upper=True)
        parts = [(shares.T @ block).to(self.x.dtype).T for block in _blocks(self.x)]
        return torch.cat([*parts, coefficients[-1:]])


def add_gram(gram: Float64[Tensor, "n n"], x: Float[Tensor, "n p"]) -> None:
    """Add x x^T to `gram`, in float64: rounding in float32 would be felt where all samples have a large mean."""
    for block in _blocks(x):
        gram.addmm_(block, block.T)


def reduction(x: Float[Tensor, "n p"], gram: Float64[Tensor, "n n"] | None = None) -> Reduction:
    """The reduction of x. gram: x x^T, if it is known.

    A singular Gram matrix (equal samples) gets a diagonal as small as rounding allows; the certificate of a fit is
    computed from x itself and sees what that changed.
    """
    if gram is None:
        gram = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
        add_gram(gram, x)
    size = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    jitter = size * 1e-14
    while True:
        shifted = gram.clone()
        shifted.diagonal().add_(jitter)
        root, failed = torch.linalg.cholesky_ex(shifted)
        if not failed or not torch.isfinite(size):
            return Reduction(x, root)
        jitter = jitter * 10


def pays(n: int, sizes: Iterable[int], classes: int) -> bool:
    """Whether machines on the leading `sizes` of n samples' columns take fewer operations on reduced features."""
    widths = list(sizes)
    step = 4 * n * (_STEPS * classes + RANK)
    plain = step * sum(widths)
    reduced = 2 * n * n * max(widths) + len(widths) * (step * n + n**3 / 3)
    return reduced < plain


def _blocks(x: Float[Tensor, "n p"]) -> Iterator[Float64[Tensor, "n columns"]]:
    return (x[:, first : first + COLUMNS].double() for first in range(0, x.shape[1], COLUMNS))
