"""How alike two layers are as a whole: four indices from the same co-moments, each 0 (nothing shared) to 1.

    index            does not change under
    linear CKA       rotations of A or B, one scale for all units of A or of B
    Procrustes       the same
    SVCCA            the same; with share = 1 every invertible map of A or B
    PWCCA            every invertible map of B; one scale for all units of A

Rows are images times places, as the `Pair` has them. A layer without a live unit gives 0. The index of
`pair.control()` is what chance gives.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from netopsy.errors import SettingsError
from netopsy.studies.correspondence.comoments.pair import Pair

ROUNDING = 1e-6
"""Eigenvalues below this share of the largest are rounding: the co-moments come from float32 values."""


def linear_cka(pair: Pair) -> float:
    """Centred kernel alignment with linear kernels: |A'B|^2 / (|A'A| |B'B|), Frobenius norms of the co-moments.

    Source: Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network representations revisited", ICML 2019,
    Section 3 (linear CKA by features). It is biased upwards where the rows are not many more than the units.
    """
    aa, bb, ab = _live(pair)
    scale = float(np.linalg.norm(aa) * np.linalg.norm(bb))
    return _share(float(np.linalg.norm(ab)) ** 2 / scale) if scale > 0 else 0.0


def procrustes(pair: Pair) -> float:
    """The nuclear norm of A'B with A and B of Frobenius norm 1: 1 - d/2, d the squared Procrustes distance.

    d is the least |A - B R|^2 over all rotations R. Source: Schönemann, "A generalized solution of the orthogonal
    Procrustes problem", Psychometrika 31 (1966); as an index of similarity Ding, Denain, Steinhardt, "Grounding
    representation similarity through statistical testing", NeurIPS 2021, Section 2.
    """
    aa, bb, ab = _live(pair)
    scale = np.sqrt(np.trace(aa)) * np.sqrt(np.trace(bb))
    return _share(np.linalg.svd(ab, compute_uv=False).sum() / scale) if scale > 0 else 0.0


def svcca(pair: Pair, share: float = 0.99) -> float:
    """Mean canonical correlation between the leading principal components of A and of B.

    share: of the variance that the components kept must hold, above 0 to 1. The mean is over as many correlations as
    the smaller side has components. Source: Raghu, Gilmer, Yosinski, Sohl-Dickstein, "SVCCA", NIPS 2017, Section 2.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"share {share} must be above 0 and at most 1: of the variance that SVCCA keeps.")
    aa, bb, ab = _live(pair)
    a, b = _whitener(aa, share), _whitener(bb, share)
    correlations = np.linalg.svd(a.T @ ab @ b, compute_uv=False)
    return _share(correlations.mean()) if len(correlations) else 0.0


def pwcca(pair: Pair) -> float:
    """Mean canonical correlation, weighted by how much of A each canonical direction of A accounts for.

    The weight of a direction h is the sum over the units z of A of |<h, z>|; there are as many directions as the
    smaller side has dimensions. Take `pair.swapped()` for the weights of B (the authors' code takes those of the
    smaller side). Source: Morcos, Raghu, Bengio, "Insights on representational similarity in neural networks with
    canonical correlation", NeurIPS 2018, Section 3.
    """
    aa, bb, ab = _live(pair)
    a, b = _whitener(aa, 1.0), _whitener(bb, 1.0)
    if not a.size or not b.size:
        return 0.0
    directions, correlations, _ = np.linalg.svd(a.T @ ab @ b, full_matrices=False)
    weights = np.abs(aa @ a @ directions).sum(0)
    return _share(float(weights @ correlations) / weights.sum())


def _live(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """aa, bb and ab of the live units."""
    a, b = np.flatnonzero(~pair.dead_a), np.flatnonzero(~pair.dead_b)
    return pair.aa[np.ix_(a, a)], pair.bb[np.ix_(b, b)], pair.ab[np.ix_(a, b)]


def _whitener(moments: Float64[np.ndarray, "p p"], share: float) -> Float64[np.ndarray, "p k"]:
    """Columns that turn the units into uncorrelated components of norm 1; k of them hold `share` of the variance.

    With share 1 all but rounding: the units are brought to one variance first, so that no unit is lost for its scale.
    """
    if not len(moments):
        return moments
    scale = np.sqrt(np.diag(moments)) if share == 1 else np.ones(len(moments))
    values, vectors = np.linalg.eigh(moments / np.outer(scale, scale))
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = values > ROUNDING * values[0]
    if share < 1:
        cumulative = np.cumsum(np.maximum(values, 0)) / np.maximum(values, 0).sum()
        keep &= np.arange(len(values)) <= np.searchsorted(cumulative, share)
    return vectors[:, keep] / scale[:, None] / np.sqrt(values[keep])


def _share(value: float) -> float:
    return float(min(max(value, 0.0), 1.0))
