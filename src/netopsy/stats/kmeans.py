"""K-means of vectors, for codebooks of whole filters (Lorieul et al., Section III.D, Fig 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from netopsy.errors import SettingsError

ROWS_AT_ONCE = 4096
PAIRWISE_UP_TO = 4096
"""Up to so many vectors all their distances are kept, 8 bytes each, while centroids are being seeded."""


@dataclass(frozen=True)
class Clusters:
    """Vectors replaced by the nearest of a few centroids.

    centroids: (k, d), dtype and device of the vectors. codes: int64 (n,), 0..k-1; no cluster is empty. distortion: mean
    over the vectors of the squared distance to their centroid (for d = 1 what `kmeans1d` calls so).
    """

    centroids: Tensor
    codes: Tensor
    distortion: float

    def decode(self) -> Tensor:
        """The vectors as the codebook has them, (n, d)."""
        return self.centroids[self.codes]


def kmeans(vectors: Tensor, k: int, *, seed: int = 0, starts: int = 1, iterations: int = 100) -> Clusters:
    """`k` centroids with a small mean squared distance to `vectors`, (n, d): Lloyd's iteration from k-means++ seeds.

    Each seed is the best of several drawn with probability proportional to the squared distance from those before it
    (Arthur and Vassilvitskii 2007, the greedy variant). A cluster that loses its vectors takes the one farthest from
    its own centroid. The best of `starts` runs of at most `iterations` steps is kept. The same `seed` gives the same
    clusters on one machine. k = n gives the vectors themselves. Raises SettingsError.
    """
    _check(vectors, k, starts, iterations)
    n = len(vectors)
    if k == n:
        return Clusters(vectors.detach().clone(), torch.arange(n, device=vectors.device), 0.0)
    points = _coordinates(vectors.detach().double())
    draw = torch.Generator().manual_seed(seed)
    best, least = torch.empty(0), math.inf
    for _ in range(starts):
        codes = _lloyd(points, _seeds(points, k, draw), iterations)
        error = float((points - _means(points, codes, k)[codes]).square().sum())
        if error < least:
            best, least = codes, error
    centroids = _means(vectors.detach().double(), best, k).to(vectors.dtype)
    error = float((vectors.detach().double() - centroids.double()[best]).square().sum())
    return Clusters(centroids, best, error / n)


def _check(vectors: Tensor, k: int, starts: int, iterations: int) -> None:
    if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.numel():
        raise SettingsError(
            f"k-means was given vectors of shape {tuple(vectors.shape)} and type {vectors.dtype}; "
            "give floating-point vectors of shape (n, d), for filters `weight.flatten(1)`."
        )
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(vectors):
        raise SettingsError(
            f"k = {k!r} clusters of {len(vectors)} vectors; give a whole number from 1 to {len(vectors)}."
        )
    if starts < 1 or iterations < 1:
        raise SettingsError(f"k-means with starts={starts}, iterations={iterations}; give at least 1 of each.")
    if not bool(vectors.isfinite().all()):
        raise SettingsError("k-means was given vectors of NaN or infinite values; leave them out, or mend the weights.")


def _coordinates(vectors: Tensor) -> Tensor:
    """Centred vectors in an orthonormal basis of their span: the same distances in min(n, d) numbers each."""
    centred = vectors - vectors.mean(0)
    n, d = centred.shape
    return centred if d <= n else torch.linalg.qr(centred.T, mode="r").R.T.contiguous()


def _squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances, (n, k), as |x|^2 - 2 x.c + |c|^2; rounding may not make them negative."""
    squares = torch.addmm(centroids.square().sum(1), points, centroids.T, alpha=-2)
    return squares.add_(points.square().sum(1, keepdim=True)).clamp_(min=0)


def _seeds(points: Tensor, k: int, draw: torch.Generator) -> Tensor:
    n = len(points)
    trials = 2 + int(math.log(k))
    pairwise = _squared_distances(points, points) if n <= PAIRWISE_UP_TO else None
    chosen = [int(torch.randint(n, (1,), generator=draw))]
    nearest = _squared_distances(points[chosen], points)[0]
    nearest[chosen[0]] = 0
    while len(chosen) < k:
        mass = nearest.cumsum(0)
        at = torch.rand(trials, generator=draw, dtype=torch.float64).to(points.device) * mass[-1]
        drawn = torch.searchsorted(mass, at, right=True).clamp_(max=n - 1)
        rows = _squared_distances(points[drawn], points) if pairwise is None else pairwise[drawn]
        candidates = torch.minimum(rows, nearest)
        best = int(candidates.sum(1).argmin())
        chosen.append(int(drawn[best]))
        nearest = candidates[best]
        nearest[chosen[-1]] = 0
    return points[chosen]


def _lloyd(points: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Codes, (n,), once no vector changes its cluster, or after so many iterations."""
    k = len(centroids)
    codes = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        moved, squares = _assign(points, centroids)
        moved = _fill_empty(moved, squares, k)
        if torch.equal(moved, codes):
            break
        codes = moved
        centroids = _means(points, codes, k)
    return codes


def _assign(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each point, (n,), and the squared distance to it, (n,)."""
    nearest = [_squared_distances(rows, centroids).min(1) for rows in points.split(ROWS_AT_ONCE)]
    return torch.cat([part.indices for part in nearest]), torch.cat([part.values for part in nearest])


def _fill_empty(codes: Tensor, squares: Tensor, k: int) -> Tensor:
    """Codes with each empty cluster given the point farthest from its centroid that is not alone in its own."""
    sizes = torch.bincount(codes, minlength=k)
    empty = (sizes == 0).nonzero().flatten().tolist()
    if not empty:
        return codes
    codes = codes.clone()
    for point in squares.argsort(descending=True).tolist():
        if not empty:
            break
        if sizes[codes[point]] > 1:
            sizes[codes[point]] -= 1
            codes[point] = empty.pop()
    return codes


def _means(points: Tensor, codes: Tensor, k: int) -> Tensor:
    sums = torch.zeros(k, points.shape[1], dtype=points.dtype, device=points.device).index_add_(0, codes, points)
    return sums / torch.bincount(codes, minlength=k).clamp_(min=1)[:, None]
