"""Recipes at a budget: what they fit, against the stress itself and the papers' algorithms written out."""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
import reference_stress as reference
import torch
from reference_kmeans import lloyd_max_normal
from torch import Tensor

from netopsy import kmeans1d
from netopsy.errors import SettingsError
from netopsy.stats import pca
from netopsy.stats.pca import fit_pca
from netopsy.studies.transfer.alternatives import candidates
from netopsy.transform.coders import Floats, Scalars, Signs
from netopsy.transform.fit import training
from netopsy.transform.fit.levels import Bins, Directions, Truncation, Whitened
from netopsy.transform.fit.product import (
    NORMAL_ERROR,
    Itq,
    OptimizedProductQuantizer,
    ProductQuantizer,
    SignBits,
    TransformCoding,
    allot,
    procrustes,
    scalar_centroids,
)
from netopsy.transform.fit.training import Quantizer, TrainingSet, fit_ranges, parse_size, quantize, unit
from netopsy.transform.steps import Project


def features(n: int = 700, p: int = 48, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(8, p, generator=torch.Generator().manual_seed(99))
    x = torch.randn(n, 8, generator=generator) @ basis + 0.5 * torch.randn(n, p, generator=generator)
    return unit(x.clamp_min(0))


@pytest.fixture(scope="module")
def train() -> TrainingSet:
    return TrainingSet(features(), source="toy")


def squared_error(recipe: Quantizer, train: TrainingSet, x: Tensor) -> float:
    """Mean squared difference of the distances between vectors, before and after."""
    back = torch.from_numpy(recipe.fit(train).transform(x))
    return float((torch.pdist(x) - torch.pdist(back)).square().mean())


# --- sizes and candidates


def test_sizes_are_bits() -> None:
    known = {
        "64B": 512,
        "512b": 512,
        "1kB": 8000,
        "1 KiB": 8192,
        "64 bytes": 512,
        "1 bit": 1,
        "0.5kB": 4000,
        "2Mb": 2e6,
    }
    assert {text: parse_size(text) for text in known} == known


@pytest.mark.parametrize("text", ["", "64", "B", "-3B", "0B", "64X", "0.3b", "64 B x", "1e3B", "inf B", "64kb5"])
def test_what_is_no_size_is_an_error(text: str) -> None:
    with pytest.raises(SettingsError, match="size"):
        parse_size(text)


@pytest.mark.parametrize("n_dims", [1, 2, 7, 64, 500, 4096, 50_000])
@pytest.mark.parametrize("n_train", [1, 2, 3, 100, 1000, 20_000])
def test_candidates_are_few_and_within_the_budget(n_dims: int, n_train: int) -> None:
    for budget in (1, 3, 8, 9, 64, 512, 1000, 8192, 10**6):
        recipes = candidates(n_dims, n_train, budget)
        assert 1 <= len(recipes) <= 40
        assert len({recipe.label for recipe in recipes}) == len(recipes)
        for recipe in recipes:
            assert 1 <= recipe.bits <= budget
            if isinstance(recipe, Directions | Whitened | SignBits | Itq | OptimizedProductQuantizer):
                assert recipe.size <= min(n_dims, n_train)


def test_candidates_lie_along_the_budget() -> None:
    recipes = candidates(4096, 5000, 512)
    pairs = [(r.size, r.h) for r in recipes if isinstance(r, Directions)]
    assert (102, 32) in pairs and (64, 256) in pairs and (512, 2) in pairs
    assert {r.method for r in recipes} == {
        "PCA x Q-2", "whitening x Q-2", "truncation", "transform coding", "PCA signs", "ITQ", "PQ", "OPQ",
    }  # fmt: skip
    assert [(r.parts, r.width) for r in recipes if isinstance(r, ProductQuantizer)] == [(72, 7), (128, 4)]
    assert next((r.parts, r.width) for r in candidates(4096, 20_000, 512) if isinstance(r, ProductQuantizer)) == (64, 8)
    # all 64 dimensions fit in with up to 8 bits each: fewer bits would buy nothing
    wide = candidates(64, 5000, 512)
    assert next((r.size, r.h) for r in wide if isinstance(r, Directions)) == (64, 256)
    assert Bins(64, 256) in wide and Truncation(64, 8) in wide
    with pytest.raises(SettingsError, match="0 bits"):
        candidates(64, 100, 0)


def test_every_candidate_fits_and_keeps_its_promise(train: TrainingSet) -> None:
    test = features(50, seed=1)
    for budget in (16, 200, 1600):
        for recipe in candidates(48, 700, budget):
            if isinstance(recipe, ProductQuantizer | OptimizedProductQuantizer) and find_spec("faiss") is None:
                continue
            chain = recipe.fit(train)
            assert chain.bits == recipe.bits and chain.inputs == 48 and chain.source == "toy"
            back = chain.transform(test)
            assert np.isfinite(back).all() and len(np.unique(back, axis=0)) > 1
            # raw features are normalised by the transform itself
            assert np.array_equal(chain.encode(3.5 * test.double()), chain.encode(test.double()))


def test_small_and_degenerate_sets_can_be_fitted() -> None:
    for x in (features(1, 5), features(2, 5), features(3, 1), torch.zeros(6, 5), features(1, 5).expand(9, 5)):
        for recipe in candidates(x.shape[1], len(x), 40):
            chain = recipe.fit(x)
            assert chain.bits <= recipe.bits and np.isfinite(chain.transform(x)).all()


def test_more_bits_keep_distances_better(train: TrainingSet) -> None:
    test = features(80, seed=1)
    families: list[list[Quantizer]] = [
        [Directions(16, 2**b) for b in (2, 4, 8)],
        [Directions(p, 256) for p in (4, 16, 48)],
        [Bins(48, 2**b) for b in (2, 4, 8)],
        [Truncation(p) for p in (8, 24, 48)],
    ]
    for family in families:
        errors = [squared_error(recipe, train, test) for recipe in family]
        assert errors == sorted(errors, reverse=True), family


# --- levels


def test_directions_with_levels_are_the_stress(train: TrainingSet) -> None:
    test = features(60, seed=1)
    fitted = fit_pca(train.x)
    for size, h in ((48, 5), (10, 27), (1, 2)):
        z = fitted.apply(test, size)
        expected = quantize(z, fit_ranges(fitted.apply(train.x, size), True), h).numpy()
        same = np.isclose(Directions(size, h).fit(train).transform(test), expected, atol=1e-5)
        assert same.mean() > 0.999  # a float32 product may fall on the other side of a border
    expected = quantize(test, fit_ranges(train.x, True), 9).numpy()
    assert np.array_equal(Bins(48, 9).fit(train.x).transform(test), expected)


def test_whitened_directions_have_equal_variance(train: TrainingSet) -> None:
    chain = Whitened(12, 1 << 16).fit(train)
    z = chain.transform(train.x)
    assert np.allclose(np.cov(z, rowvar=False), np.eye(12) / 12, atol=1e-4) and np.abs(z.mean(0)).max() < 1e-4
    assert Whitened(48, 4).fit(features(20)).outputs == 19  # the direction of the mean has no variance


def test_truncation_keeps_the_first_dimensions(train: TrainingSet) -> None:
    test = features(9, seed=1)
    assert np.array_equal(Truncation(7).fit(train).transform(test), unit(test).numpy()[:, :7])
    assert np.allclose(Truncation(7, 16).fit(train).transform(test), test[:, :7], atol=1e-3)
    eight = Truncation(7, 8).fit(train)
    assert eight.bits == 56 and np.allclose(eight.transform(train.x), train.x[:, :7], atol=1 / 256)


def test_features_that_are_not_normalised_stay_so() -> None:
    x = features() * torch.linspace(0.5, 4, 700)[:, None]
    with pytest.raises(SettingsError, match=r"lengths of 0\.5 to 4; give unit"):
        Truncation(48).fit(x)
    with pytest.raises(SettingsError, match="0 training vectors of 4 values"):
        TrainingSet(torch.zeros(0, 4))
    chain = Truncation(48).fit(TrainingSet(x, normalised=False))
    assert np.array_equal(chain.transform(x), x.numpy())


def test_recipes_of_one_training_set_share_its_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(training, "fit_pca", lambda x: calls.append(1) or pca.fit_pca(x))
    shared = TrainingSet(features(100))
    for recipe in (Directions(3, 4), Whitened(3, 4), SignBits(3), Itq(3), TransformCoding(9)):
        recipe.fit(shared)
    assert len(calls) == 1


# --- transform coding


def test_bits_go_where_they_take_away_the_most_error() -> None:
    generator = np.random.default_rng(0)
    for bits in (1, 4, 7, 11):
        variances = np.sort(generator.random(4) ** 4)[::-1]
        error = variances[:, None] * np.array(NORMAL_ERROR)
        least = min(
            sum(error[j, w] for j, w in enumerate(widths))
            for widths in itertools.product(range(9), repeat=4)
            if sum(widths) == bits
        )
        ours = allot(variances, bits)
        assert ours.sum() == bits and sum(error[j, w] for j, w in enumerate(ours)) == pytest.approx(least)
    assert allot(np.array([4.0, 1.0, 0.0]), 100).tolist() == [8, 8, 0]
    assert allot(np.array([4.0, 1.0]), 3).tolist() == [2, 1]


def test_the_errors_of_normal_variables_are_those_of_their_best_levels() -> None:
    for width in range(6):
        assert NORMAL_ERROR[width] == pytest.approx(lloyd_max_normal(1 << width), rel=5e-3)
    # above, the error falls to a quarter with each bit, in the limit to pi sqrt(3) / 2 / 4^bits (Panter & Dite)
    assert NORMAL_ERROR[8] == pytest.approx(np.pi * 3**0.5 / 2 / 4**8, rel=0.02)
    assert np.all(np.diff(np.diff(NORMAL_ERROR)) > 0)


@pytest.mark.parametrize("draw", ["normal", "laplace"])
def test_scalar_centroids_are_near_the_best(draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=20_000).astype(np.float32)
    for width in (1, 3, 5, 6, 7):
        ours = scalar_centroids(values, width)
        assert len(ours) == 1 << width and np.all(np.diff(ours) >= 0)
        error = ((values - ours[np.searchsorted((ours[1:] + ours[:-1]) / 2, values)]) ** 2).mean()
        assert error < kmeans1d(values, 1 << width).distortion * (1.0001 if width < 6 else 1.25)
    few = scalar_centroids(np.array([1.0, 2.0, 2.0, 5.0], np.float32), 3)
    assert set(few.tolist()) == {1, 2, 5} and len(few) == 8


def test_transform_coding_is_ahead_of_equal_bits(train: TrainingSet) -> None:
    test = features(80, seed=1)
    z, mean = train.pca.apply(test), train.coordinates.mean(0)

    def lost(recipe: Quantizer) -> float:
        """Mean squared error of vectors put together again; a direction without bits is at its mean."""
        back = torch.from_numpy(recipe.fit(train).transform(test))
        whole = torch.cat([back, mean[back.shape[1] :].expand(len(z), -1)], 1)
        return float((z - whole).square().sum(1).mean())

    for bits in (48, 96, 144):
        assert TransformCoding(bits).fit(train).bits == bits
        plain = min(lost(Directions(bits // b, 2**b)) for b in (1, 2, 3, 4, 6))
        assert lost(TransformCoding(bits)) < 0.95 * plain


# --- binary codes


def test_signs_are_those_of_the_centred_coordinates(train: TrainingSet) -> None:
    _, vectors = reference.principal_directions(train.x.numpy())
    x = train.x.double().numpy()
    coordinates = (x - x.mean(0)) @ vectors[:, :9]
    chain = SignBits(9).fit(train)
    ours, theirs = np.unpackbits(chain.encode(train.x), axis=1, count=9), coordinates > 0
    same = (ours == theirs).mean(0)
    assert np.maximum(same, 1 - same).min() > 0.998  # an eigenvector's sign is free


def test_itq_is_gong_and_lazebnik_s(train: TrainingSet) -> None:
    z = train.coordinates[:, :10].double()
    z = z - z.mean(0)
    start = procrustes(z, seed=4, iterations=0)
    rotation, errors = reference.iterative_quantization(z.numpy(), start.numpy(), 50)
    assert np.allclose(procrustes(z, seed=4).numpy(), rotation, atol=1e-8)
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors)) and errors[-1] < errors[0]
    assert torch.allclose(start.T @ start, torch.eye(10, dtype=torch.float64), atol=1e-12)
    assert not torch.allclose(start, procrustes(z, seed=5, iterations=0))
    # its bits are balanced better among directions than plain signs: Hamming distances follow true ones more closely
    true = torch.pdist(train.x[:200])

    def agreement(recipe: Quantizer) -> float:
        back = torch.from_numpy(recipe.fit(train, seed=4).transform(train.x[:200]))
        return float(torch.corrcoef(torch.stack([torch.pdist(back), true]))[0, 1])

    assert agreement(Itq(16)) > agreement(SignBits(16)) + 0.05


def test_the_signs_of_itq_are_those_of_the_rotated_centred_coordinates(train: TrainingSet) -> None:
    z = train.coordinates[:, :10].double()
    z = z - z.mean(0)
    rotation, _ = reference.iterative_quantization(z.numpy(), procrustes(z, seed=4, iterations=0).numpy(), 50)
    ours = np.unpackbits(Itq(10).fit(train, seed=4).encode(train.x), axis=1, count=10)
    assert (ours == (z.numpy() @ rotation > 0)).mean() > 0.99


def test_recipes_end_in_the_codes_that_they_name(train: TrainingSet) -> None:
    ends = [(Truncation(3), Floats), (SignBits(3), Signs), (Itq(3), Signs), (TransformCoding(9), Scalars)]
    for recipe, code in ends:
        chain = recipe.fit(train)
        assert isinstance(chain.coder, code) and recipe.label
    assert isinstance(Directions(3, 27).fit(train).steps[1], Project)
    assert (
        Directions(102, 27).label == "PCA 102 x 5 bits (27 levels)" and Whitened(1, 2).label == "whitened PCA 1 x 1 bit"
    )
