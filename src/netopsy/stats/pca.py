"""Principal components of a set of vectors, for any number of dimensions and of vectors (Carvalho et al., DR-2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from netopsy.errors import SettingsError


def eigenvalues(vectors: Float[Tensor, "n d"]) -> Float64[np.ndarray, " components"]:
    """Eigenvalues of the covariance (divided by n) of n vectors about their mean, descending, in float64.

    components: min(n - 1, d), all that n centred vectors of d values can have; none of them is below 0.
    """
    centred = vectors.detach().to(torch.float64)
    centred = centred - centred.mean(0)
    n, d = centred.shape
    gram = centred @ centred.T if n <= d else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).flip(0)[: max(min(n - 1, d), 0)]
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


def components_for(shares: Float64[np.ndarray, " components+1"], wanted: float) -> int:
    """The fewest components that hold at least `wanted` (0..1) of the variance, given the `cumulative_share`."""
    return int(np.searchsorted(shares, wanted - 1e-12))


BLOCK = 1 << 23
"""Values held in float64 at once while the training set is read."""


@dataclass(frozen=True)
class Projection:
    """Orthonormal directions, those of most variance first, on the device of the training set.

    components: (p, r) float32. variances: (r,) float64, descending, divided by n - 1. mean: (p,) float64.
    """

    components: Float32[Tensor, "p r"]
    variances: Float64[Tensor, " r"]
    mean: Float64[Tensor, " p"]

    def apply(self, x: Float32[Tensor, "n p"], size: int | None = None) -> Float32[Tensor, "n r"]:
        """Coordinates of x along the first `size` directions (all by default). Not centred, as in the authors' code."""
        return x.float() @ self.components[:, :size]


def fit_projection(x_train: Tensor | np.ndarray) -> Projection:
    """The eigenvectors of the covariance of n training vectors of p values, as many (r) as the vectors have room for.

    x_train: (n, p), a tensor on any device or a numpy array (a float16 memmap too); read in blocks, summed in float64.
    r counts the directions in which the training set is not zero, at most min(p, n): those of its variance, and one
    for what is left of its mean, of variance 0. In every other direction all training vectors have coordinate 0, so it
    would change no inner product of two of them, and no weight learned from them. A training set of zeros has r = 1.
    With n <= p the n x n inner products are decomposed instead of the p x p covariance. The sign of a direction is
    such that its largest entry is positive. Raises SettingsError for an empty or non-finite training set.
    """
    n, p = x_train.shape
    if not n or not p:
        raise SettingsError(f"principal directions of {n} vectors of {p} values; give at least one of each.")
    mean = _mean(x_train)
    if not bool(torch.isfinite(mean).all()):
        raise SettingsError("the training vectors hold NaN or infinite values; leave those vectors out.")
    values, vectors = _by_inner_products(x_train, mean) if n <= p else _by_covariance(x_train, mean)
    vectors, values = _with_mean(vectors, values, mean)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    components = vectors.mul_(torch.where(largest < 0, -1.0, 1.0)).float()
    return Projection(components, values / max(n - 1, 1), mean)


def _block(x: Tensor | np.ndarray, rows: slice, columns: slice) -> Tensor:
    """A piece of the training set in float64, a copy."""
    part = x[rows, columns]
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part.astype(np.float64))
    return part.detach().to(torch.float64, copy=True)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, max(step, 1)))


def _mean(x: Tensor | np.ndarray) -> Tensor:
    n, p = x.shape
    return torch.stack([_block(x, s, slice(None)).sum(0) for s in _slices(n, BLOCK // p)]).sum(0) / n


def _by_covariance(x: Tensor | np.ndarray, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above the rounding, descending, and their vectors, from the p x p scatter matrix."""
    n, p = x.shape
    scatter = torch.zeros(p, p, dtype=torch.float64, device=mean.device)
    for rows in _slices(n, BLOCK // p):
        part = _block(x, rows, slice(None)).sub_(mean)
        scatter.addmm_(part.T, part)
    values, vectors = torch.linalg.eigh(scatter)
    kept = _kept(values, max(n, p), n, mean)
    return values[kept].flip(0), vectors[:, kept].flip(1)


def _by_inner_products(x: Tensor | np.ndarray, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the n x n inner products of the centred vectors: X^T u / sqrt(value) for each eigenvector u."""
    n, p = x.shape
    gram = torch.zeros(n, n, dtype=torch.float64, device=mean.device)
    for columns in _slices(p, BLOCK // n):
        part = _block(x, slice(None), columns).sub_(mean[columns])
        gram.addmm_(part, part.T)
    values, sides = torch.linalg.eigh(gram)
    kept = _kept(values, max(n, p), n, mean)
    values, sides = values[kept].flip(0), sides[:, kept].flip(1)
    scaled = sides / values.sqrt()
    vectors = torch.empty(p, len(values), dtype=torch.float64, device=mean.device)
    for columns in _slices(p, BLOCK // n):
        vectors[columns] = _block(x, slice(None), columns).sub_(mean[columns]).T @ scaled
    return values, _orthonormal(vectors, values)


def _kept(values: Tensor, size: int, n: int, mean: Tensor) -> Tensor:
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
