"""Groups among vectors: as many as are asked for, by k-means, or as many as the data vouch for, which is often one.

Of the latter, a set is cut in two where, on the line through the centres of the two parts, it is further from having a
single mode than a cloud of the same extent is on the line where it looks most like two: a normal cloud, and an evenly
filled one. The distance is Hartigan's dip (Hartigan & Hartigan, "The dip test of unimodality", Annals of Statistics 13,
1985). To compare a cut with those of clouds is the idea of Liu, Hayes, Nobel, Marron, "Statistical significance of
clustering for high-dimension, low-sample size data", JASA 103 (2008); to go on with the parts, and hold the error rate
of the whole tree, that of Kimes, Liu, Hayes, Marron, "Statistical significance for hierarchical clustering", Biometrics
73 (2017). The dip, unlike their share of variance, takes no long tail for a group.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats.pca import fit_pca

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
    _check_vectors(vectors, k, starts, iterations)
    points = vectors.detach()
    if k == len(points):
        return Clusters(points.clone(), torch.arange(k, device=points.device), 0.0)
    wide = points.double()
    codes = torch.from_numpy(_codes(_in_their_span(wide).cpu().numpy(), k, seed, starts, iterations)).to(points.device)
    sizes = torch.bincount(codes)
    sums = wide.new_zeros(len(sizes), wide.shape[1]).index_add_(0, codes, wide)
    centroids = (sums / sizes[:, None]).to(points.dtype)
    return Clusters(centroids, codes, float((wide - centroids.double()[codes]).square().sum()) / len(points))


def _check_vectors(vectors: Tensor, k: int, starts: int, iterations: int) -> None:
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


def _in_their_span(vectors: Tensor) -> Tensor:
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


def dip(values: Float64[np.ndarray, " n"]) -> float:
    """The largest distance between the sample's distribution function and the nearest one with a single mode.

    0 for a single value, at most 1/4 (two equal heaps); about 0.4 / sqrt(n) for an evenly filled stretch.
    """
    x, counts = np.unique(values, return_counts=True)
    if len(x) < 2:
        return 0.0
    top = np.cumsum(counts) / counts.sum()
    bottom = top - counts / counts.sum()
    low, high, least = 0, len(x) - 1, counts.min() / counts.sum()
    # the modal interval shrinks while the curves outside it fit better than those inside
    while True:
        below, touches_below = _hull(x[low : high + 1], bottom[low : high + 1], convex=True)
        above, touches_above = _hull(x[low : high + 1], top[low : high + 1], convex=False)
        gaps_below, gaps_above = ((above - below)[touches] for touches in (touches_below, touches_above))
        if gaps_above.max() > gaps_below.max():
            gap, right = gaps_above.max(), int(touches_above[gaps_above.argmax()])
            left = int(touches_below[touches_below <= right][-1])
        else:
            gap, left = gaps_below.max(), int(touches_below[gaps_below.argmax()])
            right = int(touches_above[touches_above >= left][0])
        if gap <= least:
            return least / 2
        outside_left = top[low : low + left] - below[:left]
        outside_right = (above - bottom[low : high + 1])[right + 1 :]
        least = max(least, outside_left.max(initial=0), outside_right.max(initial=0))
        if left == 0 and right == high - low:
            return least / 2
        low, high = low + left, low + right


def _hull(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], *, convex: bool
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " touches"]]:
    """The greatest convex function below the points (or the least concave one above), and where it touches them."""
    sign = 1.0 if convex else -1.0
    corners: list[int] = []
    for i in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if sign * ((y[b] - y[a]) * (x[i] - x[a]) - (y[i] - y[a]) * (x[b] - x[a])) < 0:
                break
            corners.pop()
        corners.append(i)
    touches = np.array(corners)
    return np.interp(x, x[touches], y[touches]), touches


DRAWS = 50  # clouds of each kind that a cut is compared with
KEPT = 0.99  # share of the variance that the principal axes kept must hold
_STEPS = 20


@dataclass(frozen=True)
class SplitTest:
    """One test. size: vectors in the set. parts: sizes of the two parts, the larger first.

    dip: of the set on the line through their centres. expected: the mean of what clouds without groups show there.
    p: how probable so large a dip is without groups. accepted: whether the set was cut.
    """

    size: int
    parts: tuple[int, int]
    dip: float
    expected: float
    p: float
    accepted: bool


@dataclass(frozen=True)
class Clustering:
    """labels: int64 (n,), the group of each vector, group 0 the largest. cuts: the tests, from the whole set down."""

    labels: Int64[np.ndarray, " n"]
    cuts: tuple[SplitTest, ...]

    @property
    def groups(self) -> int:
        """Their number; 0 without vectors."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0


def split_clusters(
    vectors: Float64[np.ndarray, "n d"], *, min_size: int = 5, max_clusters: int = 6, alpha: float = 0.05, seed: int = 0
) -> Clustering:
    """The groups of the vectors.

    min_size: vectors of a group at least; fewer that lie apart are left aside, and join the nearest group in the end.
    max_clusters: groups at most. alpha: probability of finding more than one group in a cloud that has none.
    The same seed gives the same groups. Time grows with n squared: meant for some hundreds of vectors.
    """
    draw = np.random.default_rng(seed)
    points, n = _coordinates(vectors), len(vectors)
    waiting: list[np.ndarray] = [np.arange(n)] if n else []
    done: list[np.ndarray] = []
    cuts: list[SplitTest] = []
    while waiting:
        members = waiting.pop(max(range(len(waiting)), key=lambda k: len(waiting[k])))
        core, second = _propose_split(points, members, min_size)
        if len(waiting) + len(done) + 2 > max_clusters or not len(core):
            done.append(members)
            continue
        cut = _test_split(points[core], second, alpha * (len(core) - 1) / (n - 1), draw)
        cuts.append(cut)
        if cut.accepted:
            waiting += [core[~second], core[second]]
        else:
            done.append(members)
    return Clustering(_labels(points, done), tuple(cuts))


def _coordinates(vectors: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n axes"]:
    """The vectors about their mean along their principal axes, without those that hold next to nothing."""
    if not vectors.size:
        return np.zeros((len(vectors), 1))
    pca = fit_pca(vectors, dtype=torch.float64)
    energy = np.cumsum(pca.variances.numpy()) * (len(vectors) - 1)
    # rounding alone is no variance
    if energy[-1] <= 1e-12 * float((vectors**2).sum()):
        return np.zeros((len(vectors), 1))
    axes = int(np.searchsorted(energy, KEPT * energy[-1])) + 1
    return pca.apply(torch.from_numpy(vectors - vectors.mean(0)), axes).numpy()


def _propose_split(
    points: Float64[np.ndarray, "n axes"], members: Int64[np.ndarray, " m"], min_size: int
) -> tuple[Int64[np.ndarray, " core"], Bool[np.ndarray, " core"]]:
    """The members, and which of them form the second part: small parts that lie apart are first taken away."""
    core = members
    while len(core) >= 2 * min_size:
        second = _split_in_two(points[core])
        small = min(second.sum(), (~second).sum())
        if small >= min_size:
            return core, second
        if small == 0:
            break
        core = core[~second if second.sum() == small else second]
    return members[:0], np.zeros(0, bool)


def _split_in_two(points: Float64[np.ndarray, "m axes"]) -> Bool[np.ndarray, " m"]:
    """The second of two parts: Ward's, mended by Lloyd's iteration until no point changes sides."""
    second = fcluster(linkage(points, "ward"), 2, "maxclust") == 2
    for _ in range(_STEPS):
        if second.all() or not second.any():
            break
        moved = _project(points, second) > 0
        if (moved == second).all():
            break
        second = moved
    return second


def _project(points: Float64[np.ndarray, "m axes"], second: Bool[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """Positions on the line through the centres of the parts, from the point half-way."""
    first_centre, second_centre = points[~second].mean(0), points[second].mean(0)
    return (points - (first_centre + second_centre) / 2) @ (second_centre - first_centre)


def _dip(points: Float64[np.ndarray, "m axes"], second: Bool[np.ndarray, " m"]) -> float:
    return dip(_project(points, second)) if second.any() and not second.all() else 0.0


def _test_split(
    points: Float64[np.ndarray, "m axes"], second: Bool[np.ndarray, " m"], alpha: float, draw: np.random.Generator
) -> SplitTest:
    """The cut compared with those of clouds whose covariance is exactly that of the points.

    Of normal points with a given covariance the left singular vectors are a random frame: for them the test is exact.
    """
    dip = _dip(points, second)
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    spread = spread[spread > 1e-6 * spread[0]][: len(points) - 1]
    shape = (len(points), len(spread))
    probability, expected = 0.0, 0.0
    for even in (False, True):
        values = []
        for _ in range(DRAWS):
            cloud = draw.uniform(-1, 1, shape) if even else draw.standard_normal(shape)
            cloud = np.linalg.qr(cloud - cloud.mean(0))[0] * spread
            values.append(_dip(cloud, _split_in_two(cloud)))
        mean, deviation = float(np.mean(values)), float(np.std(values)) or 1e-12
        probability = max(probability, float(stats.norm.sf((dip - mean) / deviation)))
        expected = max(expected, mean)
    sizes = sorted((int(second.sum()), int((~second).sum())), reverse=True)
    return SplitTest(len(points), (sizes[0], sizes[1]), dip, expected, probability, probability < alpha)


def _labels(points: Float64[np.ndarray, "n axes"], groups: list[np.ndarray]) -> Int64[np.ndarray, " n"]:
    """Group numbers, the largest group first, vectors in none with the nearest."""
    labels = np.full(len(points), -1)
    for number, group in enumerate(groups):
        labels[group] = number
    left = np.flatnonzero(labels < 0)
    if len(left):
        centres = np.stack([points[group].mean(0) for group in groups])
        labels[left] = ((points[left, None] - centres) ** 2).sum(2).argmin(1)
    order = sorted(range(len(groups)), key=lambda k: (-int((labels == k).sum()), int((labels == k).argmax())))
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups))
    return rank[labels]
