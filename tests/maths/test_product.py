"""Product quantization and OPQ against faiss."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from test_recipes import features, squared_error

from netopsy import Transform
from netopsy.errors import MissingExtra, SettingsError
from netopsy.transform.coders import ProductCoder
from netopsy.transform.fit import training
from netopsy.transform.fit.product import Itq, OptimizedProductQuantizer, ProductQuantizer, train_opq, train_pq
from netopsy.transform.fit.training import TrainingSet

faiss = pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def train() -> TrainingSet:
    return TrainingSet(features(), source="toy")


def faiss_quantizer(chain: Transform) -> tuple[object, ProductCoder]:
    """A faiss.ProductQuantizer with the codebooks of a transform."""
    coder = chain.coder
    assert isinstance(coder, ProductCoder)
    m, _, s = coder.codebooks.shape
    quantizer = faiss.ProductQuantizer(m * s, m, coder.width)
    faiss.copy_array_to_vector(coder.codebooks.ravel(), quantizer.centroids)
    return quantizer, coder


@pytest.mark.parametrize(("parts", "width"), [(12, 4), (8, 8), (6, 5), (48, 4), (7, 4), (1, 6)])
def test_product_codes_are_those_of_faiss(train: TrainingSet, parts: int, width: int) -> None:
    chain, x = ProductQuantizer(parts, width).fit(train), features(300, seed=1)
    quantizer, coder = faiss_quantizer(chain)
    m, _, s = coder.codebooks.shape
    padded = np.pad(x.numpy(), ((0, 0), (0, m * s - 48)))
    theirs = faiss.unpack_bitstrings(quantizer.compute_codes(padded), m, width)
    ours = np.unpackbits(chain.encode(x), axis=1, count=m * width).reshape(-1, m, width)
    ours = ours @ (1 << np.arange(width)[::-1])
    assert (ours == theirs).mean() > 0.999  # sums of float32 may tell two equally near centroids apart
    reconstruction = quantizer.decode(quantizer.compute_codes(padded))[:, :48]
    same = (ours == theirs).all(1)
    assert np.array_equal(chain.transform(x)[same], reconstruction[same])


def test_opq_is_that_of_faiss(train: TrainingSet) -> None:
    x = features(300, seed=1)
    chain = OptimizedProductQuantizer(8, 32, 4).fit(train, seed=3)
    z = training.as_numpy(train.coordinates[:, :32])
    matrix = faiss.OPQMatrix(32, 8)
    inner = faiss.ProductQuantizer(32, 8, 4)
    inner.cp.seed, inner.cp.min_points_per_centroid = 3, 1
    matrix.pq, matrix.niter = inner, 20
    matrix.train(z)
    quantizer = faiss.ProductQuantizer(32, 8, 4)
    quantizer.cp.seed = 3
    quantizer.train(matrix.apply_py(z))
    rotated = matrix.apply_py(training.as_numpy(train.pca.apply(x, 32)))
    theirs = quantizer.decode(quantizer.compute_codes(rotated))
    ours = chain.transform(x)
    same = np.isclose(ours, theirs, atol=1e-5).all(1)
    assert same.mean() > 0.98
    # back along the principal directions, as faiss reconstructs
    rotation, _ = train_opq(z, 8, 4, 3)
    assert np.allclose(rotation.T @ rotation, np.eye(32), atol=1e-4)
    assert np.allclose((ours @ rotation.T)[same], matrix.reverse_transform(theirs)[same], atol=1e-4)
    assert squared_error(OptimizedProductQuantizer(4, 48, 4), train, x) < squared_error(
        ProductQuantizer(4, 4), train, x
    )


def test_faiss_keeps_quiet_and_its_threads(train: TrainingSet, capfd: pytest.CaptureFixture[str]) -> None:
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        OptimizedProductQuantizer(4, 16, 8).fit(train)  # 700 vectors for 256 centroids: fewer than faiss likes
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
    assert capfd.readouterr() == ("", "")


def test_too_few_vectors_for_the_centroids_are_an_error() -> None:
    with pytest.raises(SettingsError, match="256 centroids, and there are 40 training vectors"):
        train_pq(np.zeros((40, 8), np.float32), 2, 8, 0)


def test_without_faiss_the_install_line_is_told(train: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for recipe in (ProductQuantizer(4), OptimizedProductQuantizer(4, 16)):
        with pytest.raises(MissingExtra, match=r"pip install 'netopsy\[embeddings\]'"):
            recipe.fit(train)


def test_more_bits_keep_distances_better(train: TrainingSet) -> None:
    test = features(80, seed=1)
    for family in (
        [ProductQuantizer(m, 4) for m in (4, 12, 24)],
        [OptimizedProductQuantizer(m, 48, 4) for m in (4, 12, 24)],
    ):
        errors = [squared_error(recipe, train, test) for recipe in family]
        assert errors == sorted(errors, reverse=True), family


def test_seeds_decide(train: TrainingSet) -> None:
    test = features(40, seed=1)
    for recipe in (Itq(12), ProductQuantizer(6, 4), OptimizedProductQuantizer(6, 24, 4)):
        first = recipe.fit(train, seed=1).encode(test)
        assert np.array_equal(first, recipe.fit(train, seed=1).encode(test))
        assert not np.array_equal(first, recipe.fit(train, seed=2).encode(test))
