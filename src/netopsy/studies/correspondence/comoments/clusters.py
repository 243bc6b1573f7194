"""Groups of units of A and of B that go together: shared subspaces.

Li et al., Convergent Learning, ICLR 2016, Section 5: where no unit has a partner of its own, a few units of one network
may still span what a few units of the other span. The groups come from spectral co-clustering of the correlations.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from netopsy.errors import SettingsError
from netopsy.studies.correspondence.comoments.pair import Pair
from netopsy.studies.correspondence.regression import explained_variance
from netopsy.wording import plural

NOWHERE = -1


@dataclass(frozen=True)
class CoClusters:
    """k groups, numbered by how well they are shared.

    labels_a, labels_b: the group of each unit; -1 for a dead unit and for one that correlates with none.
    within, outside: mean magnitude of the correlation in each group's block, and of its units with those of the other
    groups. explained_a: share of the variance of the group's units of A, each of variance 1, that its units of B
    explain (least squares); explained_b: the reverse. A group without units on one side explains 0 and has within 0.
    singular: singular values of the normalised correlations, the largest is 1.
    """

    labels_a: Int64[np.ndarray, " p"]
    labels_b: Int64[np.ndarray, " q"]
    within: Float64[np.ndarray, " k"]
    outside: Float64[np.ndarray, " k"]
    explained_a: Float64[np.ndarray, " k"]
    explained_b: Float64[np.ndarray, " k"]
    singular: Float64[np.ndarray, " r"]

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.within)

    @property
    def sizes_a(self) -> Int64[np.ndarray, " k"]:
        """Units of A in each group."""
        return np.bincount(self.labels_a[self.labels_a >= 0], minlength=self.count)

    @property
    def sizes_b(self) -> Int64[np.ndarray, " k"]:
        """Units of B in each group."""
        return np.bincount(self.labels_b[self.labels_b >= 0], minlength=self.count)


def co_clusters(pair: Pair, count: int | None = None, *, most: int = 16, seed: int = 0) -> CoClusters:
    """Spectral co-clustering of the magnitudes of the correlations into `count` groups.

    count: 1 or more, and at most the live units of the smaller layer; None takes the largest gap among the first
    singular values of the normalised matrix, 2 to `most` groups. seed: of the k-means step.
    Source: Dhillon, "Co-clustering documents and words using bipartite spectral graph partitioning", KDD 2001.
    """
    from sklearn.cluster import SpectralCoclustering

    strength = np.abs(pair.correlation)
    rows, columns = np.flatnonzero(strength.any(1)), np.flatnonzero(strength.any(0))
    live = strength[np.ix_(rows, columns)]
    allowed = min(live.shape)
    if count is not None and not 1 <= count <= max(allowed, 1):
        raise SettingsError(
            f"{plural(count, 'group')} for {pair.layer_a} and {pair.layer_b} must be 1 to {max(allowed, 1)}: "
            f"the smaller of the two has that many units that correlate with any."
        )
    scaled = live / np.sqrt(np.outer(live.sum(1), live.sum(0)))
    singular = np.linalg.svd(scaled, compute_uv=False)
    k = _largest_gap(singular, min(most, allowed)) if count is None else count
    labels_a, labels_b = np.full(len(strength), NOWHERE), np.full(strength.shape[1], NOWHERE)
    if allowed < 2 or k == 1:
        labels_a[rows], labels_b[columns] = 0, 0
        k = 1
    else:
        with warnings.catch_warnings():  # fewer distinct points than groups: some groups stay empty
            warnings.simplefilter("ignore")
            clustering = SpectralCoclustering(k, random_state=seed).fit(live)
        labels_a[rows], labels_b[columns] = clustering.row_labels_, clustering.column_labels_
    return _describe(pair, labels_a, labels_b, k, singular)


def _largest_gap(singular: np.ndarray, most: int) -> int:
    """How many singular values stand before the widest gap; 2 or more, for the first one is 1 whatever the matrix."""
    if most < 2 or len(singular) < 3:
        return max(1, min(2, most))
    gaps = singular[1:most] - np.append(singular[2:], 0.0)[: most - 1]
    return 2 + int(gaps.argmax())


def _describe(pair: Pair, labels_a: np.ndarray, labels_b: np.ndarray, k: int, singular: np.ndarray) -> CoClusters:
    strength = np.abs(pair.correlation)
    within, outside, explained_a, explained_b = np.zeros((4, k))
    for group in range(k):
        a, b = labels_a == group, labels_b == group
        rest_a, rest_b = (labels_a >= 0) & ~a, (labels_b >= 0) & ~b
        apart = np.concatenate([strength[np.ix_(a, rest_b)].ravel(), strength[np.ix_(rest_a, b)].ravel()])
        outside[group] = apart.mean() if len(apart) else 0.0
        if a.any() and b.any():
            block = pair.correlation[np.ix_(a, b)]
            within[group] = np.abs(block).mean()
            explained_a[group] = explained_variance(pair.correlation_bb[np.ix_(b, b)], block.T).mean()
            explained_b[group] = explained_variance(pair.correlation_aa[np.ix_(a, a)], block).mean()
    order = np.argsort(-(explained_a + explained_b), kind="stable")
    rank = np.append(np.argsort(order), NOWHERE)  # -1 stays -1
    return CoClusters(
        rank[labels_a],
        rank[labels_b],
        within[order],
        outside[order],
        explained_a[order],
        explained_b[order],
        singular,
    )
