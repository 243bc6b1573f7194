"""Principal components of a set of vectors: the eigenvalues of its covariance and their cumulative shares."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


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
