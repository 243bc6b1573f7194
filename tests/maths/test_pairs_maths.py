"""Matchings, indices of similarity, clusters and mutual information against their definitions and other programs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from reference_pairs_maths import (
    best_sum,
    binned,
    canonical_correlations,
    heaviest_matching,
    information,
    kernel_alignment,
    leading_components,
    pair_of,
    procrustes_distance,
    projection_weighted,
)
from scipy.stats import ortho_group
from sklearn.metrics import adjusted_rand_score

from netopsy.errors import SettingsError
from netopsy.stats.matching import agreement, bipartite_matching, semi_matching
from netopsy.studies.correspondence.comoments.clusters import co_clusters
from netopsy.studies.correspondence.comoments.mutual_information import PairInformation, gaussian_information
from netopsy.studies.correspondence.comoments.pair import Pair
from netopsy.studies.correspondence.regression import linear_cka, procrustes, pwcca, svcca


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def layers(p: int = 9, q: int = 12, rows: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rectified mixtures of the same hidden causes."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, 6))
    a, b = (
        np.maximum(causes @ rng.standard_normal((6, n)) + rng.standard_normal((rows, n)), 0) * rng.uniform(0.1, 9, n)
        for n in (p, q)
    )
    return a, b


# matchings


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4), (1, 6), (6, 1)])
def test_bipartite_matching_has_the_largest_sum_of_all(shape: tuple[int, int], rng: np.random.Generator) -> None:
    correlation = rng.uniform(-1, 1, shape)
    matching = bipartite_matching(correlation)
    expected = best_sum(correlation if shape[0] <= shape[1] else correlation.T)
    assert matching.correlation.sum() == pytest.approx(expected)
    assert {(int(i), int(matching.partner[i])) for i in matching.matched} == heaviest_matching(correlation)
    assert matching.choices.max() == 1
    assert len(matching.matched) == min(shape)
    assert matching.mean == pytest.approx(expected / min(shape))


def test_semi_matching_takes_the_best_of_each(rng: np.random.Generator) -> None:
    correlation = rng.uniform(-1, 1, (30, 7))
    matching = semi_matching(correlation)
    for i, row in enumerate(correlation.tolist()):
        assert row[matching.partner[i]] == max(row) == matching.correlation[i]
    assert matching.choices.tolist() == [matching.partner.tolist().count(j) for j in range(7)]
    assert sorted(matching.popular) == [j for j in range(7) if matching.choices[j] > 1]
    assert (np.diff(matching.choices[matching.popular]) <= 0).all()
    assert matching.unchosen.tolist() == [j for j in range(7) if j not in matching.partner]
    assert (np.diff(matching.correlation[matching.ranked]) <= 0).all()
    assert matching.mean >= bipartite_matching(correlation[:7]).mean - 1  # both are means of correlations


def test_a_permuted_copy_is_found_exactly(rng: np.random.Generator) -> None:
    a, _ = layers(20)
    order = rng.permutation(20)
    pair = pair_of(a, 3 * a[:, order] + 1)
    semi, one_to_one = semi_matching(pair.correlation), bipartite_matching(pair.correlation)
    for matching in (semi, one_to_one):
        np.testing.assert_array_equal(order[matching.partner], np.arange(20))
        assert matching.mean == pytest.approx(1)
    assert agreement(semi, one_to_one) == 1


def test_a_network_against_itself_matches_each_unit_with_itself() -> None:
    pair = pair_of(layers()[0], layers()[0])
    np.testing.assert_array_equal(bipartite_matching(pair.correlation).partner, np.arange(9))


def test_agreement_is_the_share_of_equal_partners() -> None:
    correlation = np.array([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0], [0.0, 0.0, 0.5]])
    semi, one_to_one = semi_matching(correlation), bipartite_matching(correlation)
    assert semi.partner.tolist() == [0, 0, 2]
    assert one_to_one.partner.tolist() == [1, 0, 2]
    assert agreement(semi, one_to_one) == pytest.approx(2 / 3)


@pytest.mark.parametrize("match", [semi_matching, bipartite_matching])
def test_dead_units_take_no_part_and_are_named(match: object) -> None:
    a, b = layers()
    a[:, [1, 4]], b[:, 7] = 0.25, 0.0
    pair = pair_of(a, b)
    inferred = match(pair.correlation)  # type: ignore[operator]
    given = match(pair.correlation, pair.dead_a, pair.dead_b)  # type: ignore[operator]
    for matching in (inferred, given):
        assert matching.dead_a.tolist() == [1, 4]
        assert matching.dead_b.tolist() == [7]
        assert matching.partner[[1, 4]].tolist() == [-1, -1]
        assert 7 not in matching.partner
        assert 7 not in matching.unchosen
        assert matching.matched.tolist() == [0, 2, 3, 5, 6, 7, 8]
        assert matching.mean == pytest.approx(matching.correlation[matching.matched].mean())
        assert np.isfinite(matching.correlation).all()


@pytest.mark.parametrize("match", [semi_matching, bipartite_matching])
def test_layers_without_live_units_have_no_matches(match: object) -> None:
    matching = match(np.zeros((3, 4)))  # type: ignore[operator]
    assert matching.partner.tolist() == [-1, -1, -1]
    assert matching.mean == 0
    assert agreement(matching, matching) == 0


# indices of similarity

INDICES = {"cka": linear_cka, "procrustes": procrustes, "svcca": svcca, "cca": lambda p: svcca(p, 1.0), "pwcca": pwcca}


def test_linear_cka_is_the_alignment_of_the_kernels() -> None:
    a, b = layers()
    assert linear_cka(pair_of(a, b)) == pytest.approx(kernel_alignment(a, b), abs=1e-12)


def test_procrustes_is_one_less_half_the_distance() -> None:
    a, b = layers()
    assert procrustes(pair_of(a, b)) == pytest.approx(1 - procrustes_distance(a, b) / 2, abs=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_svcca_is_cca_of_the_leading_components(share: float) -> None:
    a, b = layers()
    expected = canonical_correlations(leading_components(a, share), leading_components(b, share)).mean()
    assert svcca(pair_of(a, b), share) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(9, 12), (12, 5)])
def test_pwcca_weighs_canonical_variates_over_the_rows(shape: tuple[int, int]) -> None:
    a, b = layers(*shape)
    assert pwcca(pair_of(a, b)) == pytest.approx(projection_weighted(a, b), abs=1e-9)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_layer_is_wholly_like_itself(index: object) -> None:
    a, _ = layers()
    assert index(pair_of(a, -4 * a[:, ::-1] + 1)) == pytest.approx(1, abs=1e-9)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["cka", "procrustes", "svcca"])
def test_rotations_and_scales_change_nothing(name: str) -> None:
    a, b = layers()
    turned = pair_of(0.01 * a @ ortho_group.rvs(9, random_state=0), 70 * b @ ortho_group.rvs(12, random_state=1))
    assert INDICES[name](turned) == pytest.approx(INDICES[name](pair_of(a, b)), abs=1e-9)  # type: ignore[operator]


def test_invertible_maps_change_no_cca_and_do_change_cka(rng: np.random.Generator) -> None:
    a, b = layers()
    mapped = b / b.std(0) @ ortho_group.rvs(12, random_state=2) * rng.uniform(0.1, 5, 12)
    for index in (pwcca, lambda p: svcca(p, 1.0), lambda p: svcca(p.swapped(), 1.0)):
        assert index(pair_of(a, mapped)) == pytest.approx(index(pair_of(a, b)), abs=1e-7)
    assert abs(linear_cka(pair_of(a, mapped)) - linear_cka(pair_of(a, b))) > 0.01


@pytest.mark.parametrize("name", ["cka", "procrustes", "svcca", "cca"])
def test_the_order_of_the_layers_does_not_matter(name: str) -> None:
    pair = pair_of(*layers())
    assert INDICES[name](pair) == pytest.approx(INDICES[name](pair.swapped()), abs=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_dead_units_copies_and_few_rows_are_no_obstacle(index: object) -> None:
    a, b = layers(30, 40, rows=20)
    a[:, 0], b[:, [3, 4]], b[:, 5] = 0.7, 0.0, 2 * b[:, 6]
    value = index(pair_of(a, b))  # type: ignore[operator]
    assert isinstance(value, float)
    assert 0 <= value <= 1
    without = index(pair_of(a[:, 1:], np.delete(b, [3, 4], 1)))  # type: ignore[operator]
    assert value == pytest.approx(without, abs=1e-9)
    assert index(pair_of(0 * a, b)) == 0  # type: ignore[operator]


def test_rank_deficient_layers_have_the_correlations_of_their_subspaces() -> None:
    a, b = layers(8, 8, rows=200)
    wide_a, wide_b = a @ np.ones((8, 20)) + a @ np.arange(160).reshape(8, 20), np.hstack([b, b[:, :3] + b[:, 3:6]])
    expected = canonical_correlations(wide_a, wide_b)
    assert svcca(pair_of(wide_a, wide_b), 1.0) == pytest.approx(expected.mean(), abs=1e-7)
    assert pwcca(pair_of(wide_a, wide_b)) == pytest.approx(projection_weighted(wide_a, wide_b), abs=1e-7)


def test_the_control_is_less_alike(rng: np.random.Generator) -> None:
    a, b = layers(rows=2000)
    pair = pair_of(a, b, b[rng.permutation(2000)])
    for name in ("cka", "procrustes", "cca", "pwcca"):
        assert INDICES[name](pair.control()) < 0.3 < INDICES[name](pair)  # type: ignore[operator]


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_the_share_of_svcca_has_a_range(share: float) -> None:
    with pytest.raises(SettingsError, match="above 0 and at most 1"):
        svcca(pair_of(*layers()), share)


# clusters


def subspaces(rng: np.random.Generator, rows: int = 3000) -> tuple[Pair, np.ndarray, np.ndarray]:
    """Four groups of hidden causes; each unit mixes the causes of one group."""
    of_a, of_b = np.repeat(range(4), 5), np.repeat(range(4), (3, 6, 4, 5))
    causes = rng.standard_normal((4, rows, 2))

    def layer(groups: np.ndarray, noise: float) -> np.ndarray:
        mixed = [causes[g] @ rng.uniform(0.3, 1, 2) + noise * rng.standard_normal(rows) for g in groups]
        return np.stack(mixed, 1)

    a, b = rng.permutation(of_a), rng.permutation(of_b)
    return pair_of(layer(a, 0.05), layer(b, 0.05)), a, b


@pytest.mark.parametrize("count", [None, 4])
def test_co_clustering_finds_shared_subspaces(count: int | None, rng: np.random.Generator) -> None:
    pair, a, b = subspaces(rng)
    clusters = co_clusters(pair, count)
    assert clusters.count == 4
    assert adjusted_rand_score(np.append(a, b), np.append(clusters.labels_a, clusters.labels_b)) == 1
    assert (clusters.within > 0.5).all()
    assert (clusters.outside < 0.1).all()
    assert (clusters.explained_a > 0.95).all()
    assert (clusters.explained_b > 0.95).all()
    assert clusters.sizes_a.tolist() == [5] * 4
    assert clusters.singular[0] == pytest.approx(1)


def test_groups_come_with_the_best_shared_first_and_explain_what_numpy_says(rng: np.random.Generator) -> None:
    a, b = layers(14, 18, rows=500)
    a[:, 3], b[:, 2] = 0, 1
    clusters = co_clusters(pair_of(a, b), 3)
    assert clusters.labels_a[3] == clusters.labels_b[2] == -1
    assert (np.diff(clusters.explained_a + clusters.explained_b) <= 1e-12).all()
    for group in range(3):
        x, y = b[:, clusters.labels_b == group], a[:, clusters.labels_a == group]
        x, y = x - x.mean(0), (y - y.mean(0)) / y.std(0)
        left = ((y - x @ np.linalg.lstsq(x, y)[0]) ** 2).mean()
        assert clusters.explained_a[group] == pytest.approx(1 - left, abs=1e-9)
        block = np.corrcoef(a.T[clusters.labels_a == group], b.T[clusters.labels_b == group])[
            : y.shape[1], y.shape[1] :
        ]
        assert clusters.within[group] == pytest.approx(np.abs(block).mean())


def test_the_same_seed_gives_the_same_groups() -> None:
    pair = pair_of(*layers(14, 18))
    first, second = co_clusters(pair, 4, seed=3), co_clusters(pair, 4, seed=3)
    np.testing.assert_array_equal(first.labels_a, second.labels_a)


def test_few_and_no_live_units_still_make_groups() -> None:
    a, b = layers(3, 2)
    assert co_clusters(pair_of(a[:, :1], b)).labels_b.tolist() == [0, 0]
    nothing = co_clusters(pair_of(0 * a, b))
    assert nothing.labels_a.tolist() == [-1] * 3
    assert nothing.explained_a.sum() == 0


@pytest.mark.parametrize("count", [0, 13])
def test_there_are_no_more_groups_than_units(count: int) -> None:
    with pytest.raises(SettingsError, match=r"must be 1 to 9"):
        co_clusters(pair_of(*layers()), count)


# mutual information


def counted(a: np.ndarray, b: np.ndarray, pairs: list[tuple[int, int]], batch: int = 64, **options: int) -> object:
    tally = PairInformation(np.array(pairs), **options)
    for first in range(0, len(a), batch):
        tally.update(*(torch.from_numpy(v[first : first + batch]).float() for v in (a, b)))
    return tally.result()


@pytest.mark.parametrize("warmup", [1, 100, 10**6], ids=["first batch", "some", "all"])
def test_information_is_scikit_learns_of_the_bins(warmup: int) -> None:
    a, b = (v.astype(np.float32) for v in layers(4, 3, rows=500))
    pairs = [(0, 0), (3, 2), (1, 1), (1, 2)]
    result = counted(a, b, pairs, bins=5, warmup=warmup)
    warm = next(n for n in (64, 128, 500) if n >= min(warmup, 500))
    for k, (i, j) in enumerate(pairs):
        x, y = binned(a[:, i], a[:warm, i], 5), binned(b[:, j], b[:warm, j], 5)
        plugin, moved = information(x, y)
        assert result.plugin[k] == pytest.approx(plugin, abs=1e-9)  # type: ignore[attr-defined]
        assert result.information[k] == pytest.approx(plugin + moved, abs=1e-9)  # type: ignore[attr-defined]
    assert result.rows == 500  # type: ignore[attr-defined]


def test_a_discrete_copy_carries_its_entropy(rng: np.random.Generator) -> None:
    """Sparse, as after a ReLU: 70 % zeros, the rest three values."""
    a = rng.choice([0.0, 0.5, 1.0, 4.0], (20_000, 1), p=[0.7, 0.15, 0.1, 0.05])
    result = counted(a, -2 * a, [(0, 0)])
    share = np.unique(a, return_counts=True)[1] / len(a)
    assert result.plugin[0] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-12)  # type: ignore[attr-defined]
    assert result.share[0] == pytest.approx(1, abs=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_normal_variables_carry_the_gaussian_information(r: float, rng: np.random.Generator) -> None:
    a = rng.standard_normal((100_000, 1))
    b = r * a + np.sqrt(1 - r * r) * rng.standard_normal((100_000, 1))
    result, expected = counted(a, b, [(0, 0)], batch=10_000), float(gaussian_information(np.array(r)))
    assert expected == pytest.approx(-0.5 * np.log(1 - r * r))
    assert result.information[0] == pytest.approx(expected, abs=0.03 + 0.04 * expected)  # type: ignore[attr-defined]
    assert result.information[0] <= expected + 0.003  # type: ignore[attr-defined]


def test_the_correction_takes_the_bias_of_independent_units_away(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2000, 40)), rng.standard_normal((2000, 40))
    result = counted(a, b, [(i, i) for i in range(40)])
    assert result.plugin.mean() > 0.04  # type: ignore[attr-defined]
    assert abs(result.information.mean()) < 0.005  # type: ignore[attr-defined]


def test_dependence_without_correlation_is_seen(rng: np.random.Generator) -> None:
    a = rng.standard_normal((20_000, 1))
    assert abs(pair_of(a, a**2).correlation[0, 0]) < 0.05
    assert counted(a, a**2, [(0, 0)]).information[0] > 1  # type: ignore[attr-defined]


def test_dead_units_and_no_rows_carry_nothing() -> None:
    a, b = layers(2, 2)
    result = counted(0 * a, 0 * b + 1, [(0, 0), (1, 1)])
    assert result.information.tolist() == [0, 0] == result.share.tolist()  # type: ignore[attr-defined]
    empty = PairInformation(np.array([[0, 0]])).result()
    assert (empty.rows, empty.information.tolist()) == (0, [0])
    assert len(counted(a, b, []).information) == 0  # type: ignore[attr-defined]


def test_a_copy_is_worth_a_finite_number_of_nats() -> None:
    assert gaussian_information(np.array([1.0, -1.0])).tolist() == pytest.approx([13.8155] * 2, abs=1e-4)


@pytest.mark.parametrize("at", [64, 448], ids=["before the bins are fixed", "after"])
def test_a_restored_tally_goes_on(at: int) -> None:
    a, b = (torch.from_numpy(v).float() for v in layers(3, 3, rows=600))
    whole, first, second = (PairInformation(np.array([[0, 1], [2, 2]]), warmup=300) for _ in range(3))
    whole.update(a[:at], b[:at])
    first.update(a[:at], b[:at])
    second.restore({name: value.clone() for name, value in first.state().items()})
    for tally in (whole, second):
        tally.update(a[at:], b[at:])
    assert dataclasses.asdict(second.result()).keys() == dataclasses.asdict(whole.result()).keys()
    np.testing.assert_array_equal(second.result().information, whole.result().information)
    assert second.result().rows == 600


@pytest.mark.parametrize("bins", [1, 257])
def test_bins_have_a_range(bins: int) -> None:
    with pytest.raises(SettingsError, match="must be 2 to 256"):
        PairInformation(np.array([[0, 0]]), bins=bins)
