"""K-means of vectors, for codebooks of whole filters (Lorieul et al., Section III.D, Fig 7)."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy.errors import SettingsError

TWO_BLOCKS = 512
"""scikit-learn sums blocks of 256 vectors, three and more in the order in which its threads finish."""


@dataclass(frozen=True)
class Clusters:
    """Vectors replaced by the nearest of a few centroids.

    centroids: (k, d), dtype and device of the vectors; fewer where fewer vectors differ. codes: int64 (n,), each
    centroid's at least once. distortion: mean over the vectors of the squared distance to their centroid (for d = 1
    what `kmeans1d` calls so).
    """

    centroids: Float[Tensor, "k d"]
    codes: Int64[Tensor, " n"]
    distortion: float

    def decode(self) -> Float[Tensor, "n d"]:
        """The vectors as the codebook has them."""
        return self.centroids[self.codes]


def kmeans(vectors: Float[Tensor, "n d"], k: int, *, seed: int = 0, starts: int = 1, iterations: int = 100) -> Clusters:
    """`k` centroids with a small mean squared distance to `vectors`: Lloyd's iteration from k-means++ seeds.

    scikit-learn's (Arthur and Vassilvitskii 2007, the greedy variant), in float64. The best of `starts` runs of at most
    `iterations` steps is kept. seed: 0 to 2^32 - 1; the same one gives the same clusters on one machine. k = n gives
    the vectors themselves. Raises SettingsError.
    """
    _check(vectors, k, starts, iterations)
    points = vectors.detach()
    if k == len(points):
        return Clusters(points.clone(), torch.arange(k, device=points.device), 0.0)
    wide = points.double()
    codes = torch.from_numpy(_codes(_coordinates(wide).cpu().numpy(), k, seed, starts, iterations)).to(points.device)
    sizes = torch.bincount(codes)
    sums = wide.new_zeros(len(sizes), wide.shape[1]).index_add_(0, codes, wide)
    centroids = (sums / sizes[:, None]).to(points.dtype)
    return Clusters(centroids, codes, float((wide - centroids.double()[codes]).square().sum()) / len(points))


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


def _codes(points: np.ndarray, k: int, seed: int, starts: int, iterations: int) -> np.ndarray:
    """The cluster of each point, int64 (n,); the numbers of empty clusters are taken by those behind them."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    means = KMeans(k, n_init=starts, max_iter=iterations, tol=0, random_state=seed)
    alone = nullcontext() if len(points) <= TWO_BLOCKS else threadpool_limits(1, "openmp")
    with warnings.catch_warnings(), alone:
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        labels = means.fit(points).labels_
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
