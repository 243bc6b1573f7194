"""K-means of vectors against scikit-learn, faiss, every partition of tiny sets, and identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_kmeans import least_error
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs

from netopsy.errors import SettingsError
from netopsy.stats.clustering import kmeans


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.from_numpy(load_digits().data[:600]).float()


@pytest.mark.parametrize("k", [2, 10, 50])
def test_as_good_as_scikit_learn_on_average(digits: torch.Tensor, k: int) -> None:
    ours = np.mean([kmeans(digits, k, seed=seed).distortion for seed in range(3)])
    theirs = np.mean([KMeans(k, n_init=1, random_state=seed).fit(digits.numpy()).inertia_ for seed in range(3)])
    assert ours <= 1.01 * theirs / len(digits)


def test_as_good_as_faiss(digits: torch.Tensor) -> None:
    faiss = pytest.importorskip("faiss")
    peer = faiss.Kmeans(digits.shape[1], 20, niter=50, seed=1, max_points_per_centroid=10_000)
    peer.train(digits.numpy())
    squares, _ = peer.index.search(digits.numpy(), 1)
    assert kmeans(digits, 20, starts=2).distortion <= 1.02 * float(squares.mean())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_many_starts_find_the_best_of_all_partitions(k: int) -> None:
    vectors = torch.randn(8, 3, dtype=torch.float64)
    assert kmeans(vectors, k, starts=30).distortion == pytest.approx(least_error(vectors.numpy(), k), rel=1e-9)


def test_filters_longer_than_their_number_keep_their_distances() -> None:
    filters = torch.randn(24, 3, 3, 64).flatten(1) + 5
    clusters = kmeans(filters, 5)
    peer = KMeans(5, init=clusters.centroids.numpy(), n_init=1, tol=0).fit(filters.numpy())
    assert clusters.distortion == pytest.approx(peer.inertia_ / 24, rel=1e-5)
    assert torch.equal(clusters.codes, torch.from_numpy(peer.labels_).long())


def test_well_parted_blobs_are_found() -> None:
    vectors, labels = make_blobs(300, n_features=40, centers=12, cluster_std=0.1, random_state=3)
    codes = kmeans(torch.from_numpy(vectors), 12).codes.numpy()
    assert len({*zip(labels, codes, strict=True)}) == 12


def test_centroids_are_the_means_and_the_distortion_is_that_of_the_decoded_vectors(digits: torch.Tensor) -> None:
    clusters = kmeans(digits, 17, seed=4)
    for code in range(17):
        torch.testing.assert_close(clusters.centroids[code], digits[clusters.codes == code].mean(0))
    error = (digits.double() - clusters.decode().double()).square().sum(1).mean()
    assert clusters.distortion == pytest.approx(float(error), rel=1e-12)
    assert torch.equal(torch.cdist(digits, clusters.centroids).argmin(1), clusters.codes)


def test_as_many_clusters_as_vectors_give_the_vectors_themselves() -> None:
    vectors = torch.randn(9, 70)
    clusters = kmeans(vectors, 9)
    assert torch.equal(clusters.decode(), vectors) and clusters.distortion == 0


def test_one_cluster_is_the_mean() -> None:
    vectors = torch.randn(50, 6, dtype=torch.float64)
    clusters = kmeans(vectors, 1)
    torch.testing.assert_close(clusters.centroids[0], vectors.mean(0))
    assert clusters.distortion == pytest.approx(float(vectors.var(0, correction=0).sum()))


def test_equal_vectors_share_one_centroid_and_no_cluster_is_empty() -> None:
    vectors = torch.tensor([[1.0, 2.0]]).repeat(20, 1)
    vectors[0] = 0
    clusters = kmeans(vectors, 5)
    assert len(clusters.centroids) == 2 and set(clusters.codes.tolist()) == {0, 1}
    assert torch.equal(clusters.decode(), vectors) and clusters.distortion == 0


def test_more_clusters_leave_less_error() -> None:
    vectors = torch.randn(60, 100)
    errors = [kmeans(vectors, k, starts=3).distortion for k in (1, 5, 15, 30, 45, 59, 60)]
    assert errors == sorted(errors, reverse=True)


def test_one_seed_gives_one_result_and_leaves_the_global_generator_alone(digits: torch.Tensor) -> None:
    state = torch.get_rng_state()
    one, two = kmeans(digits, 9, seed=1), kmeans(digits, 9, seed=1)
    other = kmeans(digits, 9, seed=2)
    assert torch.equal(one.centroids, two.centroids) and torch.equal(one.codes, two.codes)
    assert not torch.equal(one.centroids, other.centroids)
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_vectors_give_half_precision_centroids() -> None:
    vectors = torch.randn(40, 10)
    clusters = kmeans(vectors.bfloat16(), 4)
    assert clusters.centroids.dtype == torch.bfloat16
    assert clusters.distortion == pytest.approx(kmeans(vectors, 4).distortion, rel=0.2)


@pytest.mark.parametrize("k", [0, 11, 2.5, True])
def test_impossible_numbers_of_clusters_are_refused(k: int) -> None:
    with pytest.raises(SettingsError, match="from 1 to 10"):
        kmeans(torch.randn(10, 3), k)


@pytest.mark.parametrize("vectors", [torch.randn(10), torch.ones(4, 3, dtype=torch.int64), torch.empty(0, 3)])
def test_what_is_not_a_set_of_vectors_is_refused(vectors: torch.Tensor) -> None:
    with pytest.raises(SettingsError, match=r"\(n, d\)"):
        kmeans(vectors, 1)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SettingsError, match="NaN"):
        kmeans(torch.tensor([[0.0, float("nan")], [1, 1]]), 1)
