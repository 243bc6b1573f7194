"""The 1-D k-means against kmeans1d, ckwrap, slow twins, Lloyd-Max quantisers and identities."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference_kmeans import least_error_1d, lloyd_1d, lloyd_max_normal
from scipy.stats import norm

from netopsy.errors import SettingsError
from netopsy.stats.kmeans1d.codebook import BlockMoments, encode
from netopsy.stats.kmeans1d.kmeans1d import SortedValues, kmeans1d

LLOYD_MAX = {4: 0.1174818, 16: 0.0095010, 32: 0.0025047, 64: 0.00064424}


def error(values: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> float:
    return float(np.mean((values.astype(np.float64).ravel() - np.asarray(centroids, np.float64)[codes]) ** 2))


def least_error(values: np.ndarray, k: int) -> float:
    """The exact optimum, by the O(k n) programme of the kmeans1d package."""
    clusters, centroids = pytest.importorskip("kmeans1d").cluster(values, k)
    return error(values, centroids, np.array(clusters))


def sample(name: str, n: int) -> np.ndarray:
    draw = np.random.default_rng(7)
    if name == "mixture":
        means, spreads = np.array([-50, -3, 0, 0.5, 7, 400.0]), np.array([2, 0.1, 1, 0.01, 0.5, 30])
        which = draw.choice(6, n, p=[0.05, 0.3, 0.3, 0.1, 0.2, 0.05])
        values = means[which] + spreads[which] * draw.standard_normal(n)
    elif name == "pruned":
        values = draw.standard_normal(n) * 0.02
        values[np.abs(values) < 0.03] = 0
    elif name == "far off":
        values = 1e6 + draw.standard_normal(n)
    else:
        values = {
            "normal": draw.standard_normal,
            "laplace": draw.laplace,
            "lognormal": lambda size: draw.lognormal(sigma=1.5, size=size),
            "cauchy": draw.standard_cauchy,
            "uniform": draw.random,
        }[name](size=n)
    return values.astype(np.float64 if name == "far off" else np.float32)


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    return sample("normal", 200_000)


@pytest.mark.parametrize("k", [2, 7, 32])
@pytest.mark.parametrize(
    "name", ["normal", "laplace", "lognormal", "cauchy", "uniform", "mixture", "pruned", "far off"]
)
def test_error_is_the_least_possible(name: str, k: int) -> None:
    values = sample(name, 40_000)
    assert kmeans1d(values, k).distortion <= least_error(values, k) * (1 + 1e-5)


@pytest.mark.slow
def test_error_is_the_least_possible_on_a_million_values() -> None:
    values = sample("normal", 1_000_000)
    assert kmeans1d(values, 32).distortion <= least_error(values, 32) * (1 + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("k", [64, 256])
@pytest.mark.parametrize("name", ["normal", "laplace", "mixture", "pruned"])
def test_error_is_the_least_possible_with_large_codebooks(name: str, k: int) -> None:
    values = sample(name, 200_000)
    assert kmeans1d(values, k).distortion <= least_error(values, k) * (1 + 1e-5)


def test_error_equals_that_of_ckwrap(normal: np.ndarray) -> None:
    peer = pytest.importorskip("ckwrap").ckmeans(normal[:20_000].astype(np.float64), 9)
    assert kmeans1d(normal[:20_000], 9).distortion == pytest.approx(peer.withinss.sum() / 20_000, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float64, st.integers(1, 25), elements=st.floats(-100, 100, width=32)),
    k=st.integers(1, 8),
)
def test_small_sets_are_clustered_as_by_the_plain_programme(values: np.ndarray, k: int) -> None:
    codebook = kmeans1d(values, k)
    assert codebook.distortion == pytest.approx(least_error_1d(values, k), rel=1e-9, abs=1e-11)
    assert codebook.distortion == pytest.approx(error(values, codebook.centroids, codebook.codes), rel=1e-9, abs=1e-20)


@pytest.mark.parametrize("k", LLOYD_MAX)
def test_normal_quantiles_give_the_lloyd_max_values(k: int) -> None:
    """A million evenly spaced quantiles have no sampling error; cutting the tails costs a few 1e-5."""
    quantiles = norm.ppf((np.arange(1_000_000) + 0.5) / 1_000_000)
    distortion = kmeans1d(quantiles, k).distortion
    assert distortion == pytest.approx(LLOYD_MAX[k], rel=1e-3 if k == 64 else 3e-4)
    assert lloyd_max_normal(k) == pytest.approx(LLOYD_MAX[k], rel=2e-5)


@pytest.mark.parametrize("start", ["dp", "linear", "density", "random"])
def test_no_lloyd_step_moves_a_cut(normal: np.ndarray, start: str) -> None:
    codebook = kmeans1d(normal.astype(np.float64), 12, start=start)
    halfway = (codebook.centroids[1:] + codebook.centroids[:-1]) / 2
    assert np.array_equal(np.searchsorted(halfway, normal), codebook.codes)
    means = np.bincount(codebook.codes, normal) / np.bincount(codebook.codes)
    np.testing.assert_allclose(codebook.centroids, means, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_no_start_beats_the_programme(start: str) -> None:
    values = SortedValues(sample("mixture", 50_000))
    best = values.kmeans(24).distortion
    assert best <= values.kmeans(24, start=start, seed=3).distortion * (1 + 1e-9)


def test_linear_and_density_starts_go_where_lloyd_goes_from_there() -> None:
    values = np.random.default_rng(2).random(2000) ** 2
    linear = lloyd_1d(values, np.linspace(values.min(), values.max(), 9))
    density = lloyd_1d(values, np.sort(values)[[int((i + 0.5) * 2000 / 9) for i in range(9)]])
    assert np.array_equal(kmeans1d(values, 9, start="linear").codes, linear)
    assert np.array_equal(kmeans1d(values, 9, start="density").codes, density)


def test_random_start_follows_its_seed() -> None:
    values = SortedValues(sample("mixture", 5000))
    one, two, other = (values.kmeans(20, start="random", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.codes, two.codes) and np.array_equal(one.centroids, two.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


def test_one_sort_serves_many_codebooks(normal: np.ndarray) -> None:
    values = SortedValues(normal)
    codebooks = {k: values.kmeans(k) for k in (64, 2, 256, 8, 32)}
    for k, codebook in codebooks.items():
        alone = kmeans1d(normal, k)
        assert len(codebook.centroids) == k
        assert np.array_equal(codebook.centroids, alone.centroids) and np.array_equal(codebook.codes, alone.codes)
    errors = [codebooks[k].distortion for k in sorted(codebooks)]
    assert all(more > 3 * less for more, less in pairwise(errors))


@pytest.mark.parametrize("k", [2, 31, 256, 257, 400])
def test_distortion_is_that_of_the_decoded_values(k: int) -> None:
    values = sample("laplace", 30_001)
    codebook = kmeans1d(values, k)
    assert codebook.distortion == pytest.approx(error(values, codebook.centroids, codebook.codes), rel=1e-10)
    assert codebook.decode().shape == values.shape and set(codebook.decode()) == set(codebook.centroids)
    assert codebook.codes.dtype == (np.uint8 if k <= 256 else np.uint16)
    assert (np.diff(codebook.centroids) > 0).all()


def test_distortion_of_far_clumps_keeps_its_digits() -> None:
    """Two tight clumps 1e6 apart: E[x^2] - E[x]^2 in float64 would leave no digit of an error of 1e-12."""
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.standard_normal(5000), draw.standard_normal(5000)]) * 1e-6
    values[5000:] += 1e6
    codebook = kmeans1d(values, 2)
    assert codebook.distortion == pytest.approx(error(values, codebook.centroids, codebook.codes), rel=1e-6)
    assert codebook.distortion < 2e-12


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_block_moments_equal_plain_sums(n: int) -> None:
    values = np.sort(np.random.default_rng(n).standard_normal(n)) + 3
    moments = BlockMoments(values)
    ranks = np.arange(n + 1)
    plain = np.concatenate([[0], np.cumsum(values - values.mean())])
    np.testing.assert_allclose(moments.sums_before(ranks), plain, atol=1e-12)
    np.testing.assert_allclose(moments.sums_along(ranks[: n // 2 + 1]), plain[: n // 2 + 1], atol=1e-12)
    np.testing.assert_allclose(moments.sums_along(ranks[::3]), plain[::3], atol=1e-12)
    cuts = np.unique([0, n // 3, n // 2, n])
    origins = np.linspace(1, 5, len(cuts) - 1)
    parts = [values[i:j] - origin for (i, j), origin in zip(pairwise(cuts), origins, strict=True)]
    sums, squares = moments.about(cuts, origins)
    np.testing.assert_allclose(sums, [part.sum() for part in parts], atol=1e-11)
    assert squares == pytest.approx(sum((part**2).sum() for part in parts))


@pytest.mark.parametrize("count", [0, 1, 31, 255, 256, 1000])
def test_encoding_counts_the_thresholds_reached(normal: np.ndarray, count: int) -> None:
    thresholds = np.sort(normal[:count])
    assert np.array_equal(encode(normal, thresholds), np.searchsorted(thresholds, normal, side="right"))


def test_fewer_distinct_values_than_clusters_are_kept_as_they_are() -> None:
    values = np.array([3, 1, 1, 2, 3], np.float32)
    for start in ("dp", "linear", "density", "random"):
        codebook = kmeans1d(values, 8, start=start)
        assert codebook.centroids.tolist() == [1, 2, 3] and codebook.codes.tolist() == [2, 0, 0, 1, 2]
        assert codebook.distortion == 0


def test_a_constant_and_a_single_value_lose_nothing() -> None:
    for values in (np.full(100_000, 0.1, np.float32), np.array([0.1], np.float32)):
        codebook = kmeans1d(values, 4)
        assert (
            codebook.centroids.tolist() == [np.float32(0.1)] and codebook.distortion == 0 and not codebook.codes.any()
        )


def test_values_rounded_to_a_grid_are_clustered_exactly() -> None:
    values = np.round(sample("normal", 30_000), 2)
    assert kmeans1d(values, 16).distortion == pytest.approx(least_error(values, 16), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_any_shape_and_precision(dtype: torch.dtype) -> None:
    values = torch.randn(10, 20, 30).to(dtype).requires_grad_()
    codebook = kmeans1d(values.transpose(0, 2), 5)
    plain = kmeans1d(values.detach().transpose(0, 2).double().numpy().ravel(), 5)
    assert codebook.centroids.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_allclose(codebook.centroids, plain.centroids, rtol=1e-6)
    assert np.array_equal(codebook.codes, plain.codes)


def test_arrays_are_clustered_without_loading_torch() -> None:
    code = "import sys, netopsy; netopsy.kmeans1d([1.0, 2.0, 5.0], 2); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_values_given_stay_as_they_were(normal: np.ndarray) -> None:
    before = normal.copy()
    kmeans1d(normal, 5)
    assert np.array_equal(normal, before)


@pytest.mark.parametrize("k", [0, -1, 4097, 2.5, True, None])
def test_impossible_numbers_of_clusters_are_refused(k: int) -> None:
    with pytest.raises(SettingsError, match="from 1 to 4096"):
        kmeans1d(np.arange(10.0), k)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "no values"), ([0, np.nan, 1], "NaN"), ([0, -np.inf], "infinite"), (["a"], "real"), ([1j], "real")],
)
def test_values_that_cannot_be_clustered_are_refused(values: list, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kmeans1d(np.array(values), 2)


def test_an_unknown_start_names_those_allowed() -> None:
    with pytest.raises(SettingsError, match="dp, linear, density, random"):
        kmeans1d(np.arange(10.0), 2, start="best")


@pytest.mark.slow
def test_the_largest_layer_of_alexnet_fits_in_four_gigabytes() -> None:
    """37.7 million values, K = 32, in a process of its own; ru_maxrss is in KiB."""
    code = (
        "import resource, numpy as np; from netopsy.stats.kmeans1d import kmeans1d;"
        "v = np.random.default_rng(0).standard_normal(37_748_736, np.float32); c = kmeans1d(v, 32);"
        "assert len(c.codes) == len(v); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak < 4 * 1024**2
