"""Principal components of a set of vectors (PCA): their directions, their variances, and the shares of these.

Of filters (Lorieul et al., Section III.A), of the features of a training set, for any number of dimensions and of
vectors (Carvalho et al., DR-2), and of vectors to be clustered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from netopsy.errors import SettingsError

BLOCK = 1 << 23
"""Values held in float64 at once while the vectors are read."""

Vectors = Float[Tensor, "n p"] | Float[np.ndarray, "n p"]
"""A tensor on any device or a numpy array (a float16 memmap too); read in blocks, summed in float64."""


@dataclass(frozen=True)
class PCA:
    """Orthonormal directions, those of most variance first, on the device of the vectors.

    components: (p, r) float32, or float64 if asked for. variances: (r,) float64, descending, divided by n - 1. mean:
    (p,) float64.
    """

    components: Float[Tensor, "p r"]
    variances: Float64[Tensor, " r"]
    mean: Float64[Tensor, " p"]

    def apply(self, x: Float[Tensor, "n p"], size: int | None = None) -> Float[Tensor, "n r"]:
        """Coordinates of x along the first `size` directions (all by default). Not centred, as in the authors' code."""
        return x.to(self.components.dtype) @ self.components[:, :size]


def fit_pca(x: Vectors, *, dtype: torch.dtype = torch.float32) -> PCA:
    """The eigenvectors of the covariance of n vectors of p values, as many (r) as the vectors have room for.

    r counts the directions in which the vectors are not zero, at most min(p, n): those of their variance, and one for
    what is left of their mean, of variance 0. In every other direction all of them have coordinate 0, so it would
    change no inner product of two of them, and no weight learned from them. Vectors of zeros have r = 1.
    With n <= p the n x n inner products are decomposed instead of the p x p covariance. The sign of a direction is
    such that its largest entry is positive. dtype: of the components. Raises SettingsError for no vectors, or some
    that are not finite.
    """
    n, p = x.shape
    if not n or not p:
        raise SettingsError(f"principal directions of {n} vectors of {p} values; give at least one of each.")
    mean = _mean(x)
    if not bool(torch.isfinite(mean).all()):
        raise SettingsError("the training vectors hold NaN or infinite values; leave those vectors out.")
    values, vectors = torch.linalg.eigh(_scatter(x, mean))
    keep = _above_rounding(values, max(n, p), n, mean)
    values, vectors = values[keep].flip(0), vectors[:, keep].flip(1)
    if n <= p:
        vectors = _directions(x, mean, vectors, values)
    vectors, values = _with_mean(vectors, values, mean)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    components = vectors.mul_(torch.where(largest < 0, -1.0, 1.0)).to(dtype)
    return PCA(components, values / max(n - 1, 1), mean)


def eigenvalues(vectors: Float[Tensor, "n p"]) -> Float64[np.ndarray, " components"]:
    """Eigenvalues of the covariance (divided by n) of n vectors about their mean, descending, in float64.

    components: min(n - 1, p), all that n centred vectors of p values can have; none of them is below 0. They alone
    take a third of the time of `fit_pca`.
    """
    n, p = vectors.shape
    values = torch.linalg.eigvalsh(_scatter(vectors, _mean(vectors))).flip(0)[: max(min(n - 1, p), 0)]
    return values.clamp_min(0).div(n).cpu().numpy()


def cumulative_share(eigenvalues: Float64[np.ndarray, " components"]) -> Float64[np.ndarray, " components+1"]:
    """Share of the variance in the first k components, k = 0..components; NaN where there is no variance.

    Lorieul et al., Equation 1. Its sum runs over i < k with i counted from 0, since their text speaks of the variance
    "represented by the first k components".
    """
    sums = np.concatenate([[0.0], np.cumsum(eigenvalues)])
    if sums[-1] <= 0:
        return np.full(len(sums), np.nan)
    shares = sums / sums[-1]
    shares[-1] = 1.0
    return shares


def components_for(shares: Float64[np.ndarray, " components+1"], share: float) -> int:
    """The fewest components that hold at least the `share` (0..1) of the variance, given the `cumulative_share`."""
    return int(np.searchsorted(shares, share - 1e-12))


def _block(x: Vectors, rows: slice, columns: slice) -> Float64[Tensor, "rows columns"]:
    """A piece of the vectors in float64, a copy."""
    part = x[rows, columns]
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part.astype(np.float64))
    return part.detach().to(torch.float64, copy=True)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, max(step, 1)))


def _mean(x: Vectors) -> Float64[Tensor, " p"]:
    n, p = x.shape
    return torch.stack([_block(x, s, slice(None)).sum(0) for s in _slices(n, BLOCK // p)]).sum(0) / n


def _scatter(x: Vectors, mean: Float64[Tensor, " p"]) -> Float64[Tensor, "side side"]:
    """The p x p scatter matrix of the centred vectors, or where n <= p their n x n inner products."""
    n, p = x.shape
    side = min(n, p)
    scatter = torch.zeros(side, side, dtype=torch.float64, device=mean.device)
    if n <= p:
        for columns in _slices(p, BLOCK // n):
            part = _block(x, slice(None), columns).sub_(mean[columns])
            scatter.addmm_(part, part.T)
    else:
        for rows in _slices(n, BLOCK // p):
            part = _block(x, rows, slice(None)).sub_(mean)
            scatter.addmm_(part.T, part)
    return scatter


def _directions(x: Vectors, mean: Tensor, sides: Float64[Tensor, "n r"], values: Float64[Tensor, " r"]) -> Tensor:
    """X^T u / sqrt(value), (p, r), for each eigenvector u of the inner products of the centred vectors."""
    n, p = x.shape
    scaled = sides / values.sqrt()
    vectors = torch.empty(p, len(values), dtype=torch.float64, device=mean.device)
    for columns in _slices(p, BLOCK // n):
        vectors[columns] = _block(x, slice(None), columns).sub_(mean[columns]).T @ scaled
    return _orthonormal(vectors, values)


def _above_rounding(values: Tensor, size: int, n: int, mean: Tensor) -> Tensor:
    """Which eigenvalues are more than what rounding, of the decomposition or of the mean, leaves in place of 0."""
    eps = torch.finfo(torch.float64).eps
    centring = n * float(mean @ mean) * (16 * eps) ** 2
    return values > max(float(values[-1]) * size * eps, centring, torch.finfo(torch.float64).tiny)


def _orthonormal(vectors: Tensor, values: Tensor) -> Tensor:
    """The vectors made orthonormal again, each changed by those before it only, where small values have blurred them.

    An inner product of two vectors is off by about eps times the ratio of the greatest to the least value.
    """
    if not len(values) or values[0] < values[-1] * 1e6:
        return vectors
    factor = torch.linalg.cholesky(vectors.T @ vectors)
    return torch.linalg.solve_triangular(factor, vectors.T, upper=False).T.contiguous()


def _with_mean(vectors: Tensor, values: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """One direction more, of variance 0, if the mean reaches out of the directions of variance."""
    rest = mean.clone()
    for _ in range(2):  # the second time takes away what rounding left
        rest -= vectors @ (vectors.T @ rest)
    length = torch.linalg.vector_norm(rest)
    if not len(values) and not bool(length > 0):
        return torch.eye(len(mean), 1, dtype=mean.dtype, device=mean.device), values.new_zeros(1)
    scale = (mean @ mean + values[:1].sum()).sqrt()  # values: sums over the training set, no less than its variance
    if len(values) == len(mean) or not bool(length > 1e-12 * scale):
        return vectors, values
    return torch.cat([vectors, (rest / length)[:, None]], 1), torch.cat([values, values.new_zeros(1)])
