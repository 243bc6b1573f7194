"""Groups among vectors: as many as there are, and one where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from reference_facets import dip_by_programming

from netopsy.stats.clustering import dip, split_clusters


@pytest.mark.parametrize("seed", range(12))
def test_the_dip_is_the_distance_to_the_nearest_distribution_with_one_mode(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 14))
    values = generator.standard_normal(n) + generator.choice([0, 4], n)
    values = np.round(values) if seed % 3 == 0 else values
    if len(np.unique(values)) > 1:
        assert dip(values) == pytest.approx(dip_by_programming(values), abs=1e-9)


def test_the_dip_of_simple_samples_is_known() -> None:
    assert dip(np.arange(20.0)) == pytest.approx(1 / 40)
    assert dip(np.r_[np.zeros(10), np.ones(10)]) == pytest.approx(0.25)
    assert dip(np.ones(7)) == 0.0
    shifted = np.random.default_rng(0).standard_normal(50)
    assert dip(3 - 2 * shifted) == pytest.approx(dip(shifted))


CLOUDS = {
    "normal": lambda g: g.standard_normal((80, 10)),
    "normal, more axes than points": lambda g: g.standard_normal((40, 120)) * np.arange(1, 121) ** -0.5,
    "evenly filled": lambda g: g.random((80, 1)),
    "long tails": lambda g: g.exponential(size=(80, 40)) / np.arange(1, 41),
    "outliers": lambda g: np.concatenate([g.standard_normal((77, 10)), 30 * g.standard_normal((3, 10))]),
}


@pytest.mark.parametrize("kind", CLOUDS)
def test_one_cloud_is_one_group(kind: str) -> None:
    generator = np.random.default_rng(0)
    group_counts = [split_clusters(CLOUDS[kind](generator), seed=seed).groups for seed in range(10)]
    assert sum(groups > 1 for groups in group_counts) <= 2


@pytest.mark.parametrize("sizes", [(50, 50), (60, 30), (40, 30, 30)])
def test_planted_groups_are_found(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    points = generator.standard_normal((len(truth), 20)) + 8 * np.eye(20)[truth]
    order = generator.permutation(len(truth))
    labels = split_clusters(points[order]).labels
    assert [np.unique(labels[truth[order] == k]).size for k in range(len(sizes))] == [1] * len(sizes)
    assert np.bincount(labels).tolist() == list(sizes)


def test_groups_that_lie_close_are_found_in_seven_of_eight_cases() -> None:
    generator, group_counts = np.random.default_rng(4), []
    for seed in range(8):
        points = generator.standard_normal((40, 3))
        points[20:, 0] += 4.8
        group_counts.append(split_clusters(points, seed=seed).groups)
    assert sum(groups == 2 for groups in group_counts) >= 7


def test_a_part_is_cut_at_its_share_of_the_level() -> None:
    generator = np.random.default_rng(6)
    points = generator.standard_normal((90, 3)) + 30 * np.repeat(np.eye(3), (45, 30, 15), axis=0)
    points[:20, 2] += 4  # whether these are a group of their own is a matter of the level
    groups = []
    for alpha in (0.001, 0.3):
        division = split_clusters(points, alpha=alpha)
        assert [cut.accepted for cut in division.cuts] == [c.p < alpha * (c.size - 1) / 89 for c in division.cuts]
        groups.append(division.groups)
    assert groups == [3, 4]


def test_groups_are_numbered_by_size_and_small_ones_join_their_neighbours() -> None:
    generator = np.random.default_rng(2)
    points = np.concatenate([generator.standard_normal((n, 3)) + at for n, at in ((3, 40), (30, 0), (40, 20))])
    labels = split_clusters(points, min_size=5).labels
    assert np.bincount(labels).tolist() == [43, 30]
    assert (labels[:3] == 0).all()


@pytest.mark.parametrize("vectors", [np.ones((30, 4)), np.zeros((30, 4)), np.zeros((3, 2)), np.zeros((0, 2))])
def test_vectors_without_variety_are_one_group(vectors: np.ndarray) -> None:
    division = split_clusters(vectors)
    assert division.labels.tolist() == [0] * len(vectors) and not any(c.accepted for c in division.cuts)


def test_no_more_groups_than_allowed_and_the_same_seed_gives_the_same() -> None:
    generator = np.random.default_rng(3)
    points = generator.standard_normal((120, 5)) + 30 * np.repeat(np.arange(4), 30)[:, None] * [1, -1, 1, -1, 1]
    assert split_clusters(points, max_clusters=3).groups == 3 and split_clusters(points, max_clusters=1).groups == 1
    first, second = split_clusters(points, seed=7), split_clusters(points, seed=7)
    assert (first.labels == second.labels).all() and first.cuts == second.cuts
