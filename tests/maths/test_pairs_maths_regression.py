"""Regression between layers against scikit-learn, numpy and the optimality conditions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from reference_pairs_maths import (
    lasso_objective,
    lasso_weights,
    least_squares_errors,
    pair_of,
    standard,
)

from netopsy.errors import SettingsError
from netopsy.studies.correspondence.lasso_solver import certify, prepare, solve
from netopsy.studies.correspondence.regression import (
    EXPONENTS,
    explained_variance,
    lasso_path,
    least_squares,
    strength_of_decay,
)


def layers(p: int, q: int, rows: int = 400, seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Rectified mixtures of the same hidden causes, of very different scales."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((rows, max(4, min(p, q) // 2)))

    def layer(units: int) -> np.ndarray:
        mixed = causes @ rng.standard_normal((causes.shape[1], units)) + noise * rng.standard_normal((rows, units))
        return np.maximum(mixed, 0) * 10.0 ** rng.uniform(-3, 3, units)

    return layer(p), layer(q)


def with_trouble(p: int, q: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Dead units on both sides, two copies of a unit, a sum of two units, a unit of A that is one of B."""
    a, b = layers(p, q, rows)
    a[:, 2], b[:, [0, 5]] = 0.0, 3.5
    b[:, 3] = 2 * b[:, 1] + 7
    b[:, 4] = b[:, 1] + b[:, 2] * (b[:, 1].std() / b[:, 2].std())
    a[:, 1] = -0.1 * b[:, 6]
    return a, b


@pytest.mark.parametrize("rows", [400, 15], ids=["rows", "fewer rows than units"])
@pytest.mark.parametrize("shape", [(7, 20), (20, 9)])
def test_least_squares_leaves_what_numpy_leaves(shape: tuple[int, int], rows: int) -> None:
    a, b = with_trouble(*shape, rows)
    result, expected = least_squares(pair_of(a, b)), least_squares_errors(a, b)
    expected[2] = 1.0  # the dead unit: nothing to explain
    np.testing.assert_allclose(result.errors, expected, atol=1e-8)
    assert result.used == shape[1] - 2
    assert result.rank == np.linalg.matrix_rank(standard(b), 1e-6) < result.used
    assert result.live.tolist() == [i != 2 for i in range(shape[0])]
    assert result.mean == pytest.approx(expected[result.live].mean(), abs=1e-8)


def test_what_orthogonal_predictors_explain_adds_up() -> None:
    targets = np.array([[0.6], [0.3], [-0.5]])
    assert explained_variance(np.eye(3), targets)[0] == pytest.approx(0.36 + 0.09 + 0.25)


def test_chance_alone_explains_one_predictor_in_so_many_rows() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((500, 40)), rng.standard_normal((500, 50))
    assert least_squares(pair_of(a, b)).mean == pytest.approx(1 - 50 / 499, abs=0.01)


@pytest.mark.parametrize("strength", [0.5, 0.1, 0.02, 0.003])
@pytest.mark.parametrize("shape", [(9, 25), (24, 12)])
def test_lasso_reaches_the_objective_of_scikit_learn(shape: tuple[int, int], strength: float) -> None:
    a, b = with_trouble(*shape, 300)
    result = lasso_path(pair_of(a, b), [strength], coefficients=True)
    assert result.coefficients is not None
    ours = lasso_objective(a, b, strength, result.coefficients[0])
    theirs = lasso_objective(a, b, strength, lasso_weights(a, b, strength))
    live = result.live
    np.testing.assert_allclose(ours[live], theirs[live], atol=1e-7, rtol=0)
    np.testing.assert_array_less(ours[live], theirs[live] + 1e-10)  # never above
    np.testing.assert_allclose(result.objectives[0, live], ours[live], atol=1e-10)
    residual = standard(a) - standard(b) @ result.coefficients[0].T
    np.testing.assert_allclose(result.errors[0, live], (residual**2).mean(0)[live], atol=1e-10)
    np.testing.assert_array_equal(result.used[0], (result.coefficients[0] != 0).sum(1))
    assert result.gaps.max() < 1e-10


def test_lasso_with_fewer_rows_than_units_meets_its_optimality_conditions() -> None:
    a, b = with_trouble(30, 60, 25)
    for strength in (0.3, 0.05, 0.005, 0.0005):
        result = lasso_path(pair_of(a, b), [strength], coefficients=True)
        assert result.coefficients is not None
        w = result.coefficients[0, result.live]
        y, x = standard(a)[:, result.live], standard(b)
        slope = (y - x @ w.T).T @ x / len(x)
        assert np.abs(slope).max() <= strength + 1e-6
        np.testing.assert_allclose(slope[w != 0], strength * np.sign(w[w != 0]), atol=1e-6)
        assert result.gaps.max() < 1e-10


def test_orthogonal_predictors_have_a_closed_form() -> None:
    """Soft thresholding: Tibshirani, "Regression shrinkage and selection via the lasso", 1996, Section 2.2."""
    rng = np.random.default_rng(3)
    b = np.linalg.qr(rng.standard_normal((200, 13)) - 0.0)[0]
    b = np.linalg.qr(np.column_stack([np.ones(200), b]))[0][:, 1:]  # orthogonal to the mean too
    a = b @ rng.standard_normal((13, 6)) + 0.05 * rng.standard_normal((200, 6))
    pair = pair_of(a, b)
    result = lasso_path(pair, [0.2], coefficients=True)
    assert result.coefficients is not None
    r = pair.correlation
    expected = np.sign(r) * np.maximum(np.abs(r) - 0.2, 0)
    np.testing.assert_allclose(result.coefficients[0], expected, atol=1e-12)
    np.testing.assert_array_equal(result.used[0], (np.abs(r) > 0.2).sum(1))


def test_a_unit_predicts_itself_with_one_weight() -> None:
    a, _ = layers(12, 12)
    result = lasso_path(pair_of(a, a), [0.05], coefficients=True)
    assert result.coefficients is not None
    np.testing.assert_allclose(result.coefficients[0], 0.95 * np.eye(12), atol=1e-9)
    np.testing.assert_allclose(result.errors[0], 0.05**2, atol=1e-9)
    assert result.used.tolist() == [[1] * 12]


def test_strengths_may_come_in_any_order() -> None:
    pair = pair_of(*layers(10, 14))
    up, down = lasso_path(pair, [0.01, 0.2, 0.05]), lasso_path(pair, [0.2, 0.05, 0.01])
    np.testing.assert_allclose(up.errors[[1, 2, 0]], down.errors, atol=1e-12)
    np.testing.assert_array_equal(up.used[[1, 2, 0]], down.used)
    assert (np.diff(down.mean_error) <= 0).all()
    assert (np.diff(down.mean_used) >= 0).all()


def test_above_the_largest_correlation_nothing_is_used() -> None:
    pair = pair_of(*layers(5, 8))
    largest = np.abs(pair.correlation).max()
    assert lasso_path(pair, [largest * 1.0001]).used.sum() == 0
    assert lasso_path(pair, [largest * 0.999]).used.sum() == 1
    np.testing.assert_array_equal(lasso_path(pair, [5.0]).errors, np.ones((1, 5)))


def test_the_certificate_holds_what_it_says() -> None:
    """The optimum of weights far from it lies within the gap, and below it for some."""
    a, b = layers(15, 10)
    pair, rng = pair_of(a, b), np.random.default_rng(0)
    best = lasso_path(pair, [0.03]).objectives[0]
    for size in (0.0, 1e-3, 0.1):
        start = size * rng.standard_normal((15, 10))
        certificate = certify(pair.correlation_bb, pair.correlation, 0.03, start)
        np.testing.assert_allclose(certificate.objective, lasso_objective(a, b, 0.03, start), atol=1e-9)
        assert (certificate.objective - best <= certificate.gap + 1e-12).all()
        assert (certificate.gap > 1e-6).any()


@pytest.mark.parametrize("units", [40, 90])
def test_the_minimum_does_not_depend_on_the_start(units: int) -> None:
    """Bad starts take the careful path: one weight at a time, signs that change along the way."""
    pair, rng = pair_of(*layers(20, units, noise=0.02)), np.random.default_rng(1)
    gram = prepare(pair.correlation_bb)
    expected = certify(gram.matrix, pair.correlation, 0.01, solve(gram, pair.correlation, 0.01, np.zeros((20, units))))
    for scale in (1.0, 30.0):
        w = solve(gram, pair.correlation, 0.01, scale * rng.standard_normal((20, units)))
        certificate = certify(gram.matrix, pair.correlation, 0.01, w)
        np.testing.assert_allclose(certificate.objective, expected.objective, atol=1e-10)
        assert certificate.gap.max() < 1e-10


def test_correlations_with_a_rounding_error_of_float32_are_no_obstacle() -> None:
    """Their matrix has negative eigenvalues."""
    a, b = with_trouble(12, 40, 30)
    pair, rng = pair_of(a, b), np.random.default_rng(0)
    noise = rng.uniform(-1e-7, 1e-7, pair.bb.shape) * np.sqrt(np.outer(np.diag(pair.bb), np.diag(pair.bb)))
    rough = dataclasses.replace(pair, bb=pair.bb + noise + noise.T)
    live = np.flatnonzero(~rough.dead_b)
    assert np.linalg.eigvalsh(rough.correlation_bb[np.ix_(live, live)])[0] < -1e-8
    result, exact = lasso_path(rough, [0.1, 0.003]), lasso_path(pair, [0.1, 0.003])
    np.testing.assert_allclose(result.objectives, exact.objectives, atol=1e-5)
    assert result.gaps.max() < 1e-5
    np.testing.assert_allclose(least_squares(rough).errors, least_squares(pair).errors, atol=1e-4)


def test_the_authors_strengths_are_their_decays_times_the_units() -> None:
    pair = pair_of(*layers(8, 8))
    result = lasso_path(pair)
    assert result.strengths == tuple(8 * 10**x for x in EXPONENTS)
    assert strength_of_decay(-2.6, 96) == pytest.approx(0.2411, abs=1e-4)


def test_layers_without_live_units_predict_and_need_nothing() -> None:
    a, b = layers(4, 5)
    for pair in (pair_of(a, 0 * b), pair_of(0 * a, b)):
        assert least_squares(pair).errors.tolist() == [1.0] * 4
        assert least_squares(pair).mean == 1.0
        result = lasso_path(pair, [0.1])
        assert result.errors.tolist() == [[1.0] * 4]
        assert result.used.sum() == 0
        assert result.gaps.max() == 0
        assert result.mean_error.tolist() == [1.0]


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_must_be_above_zero(strength: float) -> None:
    with pytest.raises(SettingsError, match="must be above 0"):
        lasso_path(pair_of(*layers(3, 3)), [strength])
