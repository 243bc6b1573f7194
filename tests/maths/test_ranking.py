"""Accuracy and average precision against scikit-learn, the VOC devkit's rule written out, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from reference_ranking import eleven_points, expected_accuracy
from sklearn.metrics import average_precision_score

from netopsy.errors import SettingsError
from netopsy.stats import retrieval as ranking
from netopsy.stats.retrieval import accuracy, average_precision, mean_average_precision

WAYS = pytest.mark.parametrize("how", ["area", "voc2007"])


def sample(n: int, classes: int, levels: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, classes), of so many distinct values, and relevance; every class has a relevant image."""
    lot = np.random.default_rng(seed)
    scores = lot.normal(size=(n, classes))
    if levels:
        scores = np.round(scores * levels / 4)
    relevant = (lot.random((n, classes)) < 0.2).astype(np.float32)
    relevant[0] = 1
    return scores, relevant


@pytest.mark.parametrize("levels", [None, 3, 20])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_area_is_scikit_learns_average_precision(levels: int | None, dtype: type) -> None:
    scores, relevant = sample(300, 7, levels)
    scores = scores.astype(dtype)
    expected = average_precision_score(relevant, scores.astype(np.float64), average=None)
    result = average_precision(scores, relevant)
    assert result.dtype == np.float64 and result.shape == (7,)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    mean = mean_average_precision(scores, relevant)
    assert mean.mean == pytest.approx(expected.mean(), rel=1e-12) and mean[1:] == (7, 0)


@pytest.mark.parametrize("levels", [None, 3, 20])
@pytest.mark.parametrize("n", [1, 2, 11, 150])
def test_eleven_points_are_the_devkits(levels: int | None, n: int) -> None:
    scores, relevant = sample(n, 6, levels, seed=n)
    expected = [eleven_points(scores[:, c], relevant[:, c]) for c in range(6)]
    np.testing.assert_allclose(average_precision(scores, relevant, "voc2007"), expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_small_tied_tables_agree_with_both_oracles(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 3)))
    scores = data.draw(npst.arrays(np.float32, shape, elements=st.integers(-2, 2).map(float)))
    relevant = data.draw(npst.arrays(np.int64, shape, elements=st.integers(0, 1)))
    area, points = (average_precision(scores, relevant, how) for how in ("area", "voc2007"))
    for c in range(shape[1]):
        if not relevant[:, c].any():
            assert math.isnan(area[c]) and math.isnan(points[c])
            continue
        assert area[c] == pytest.approx(average_precision_score(relevant[:, c], scores[:, c]), rel=1e-12)
        assert points[c] == pytest.approx(eleven_points(scores[:, c], relevant[:, c]), rel=1e-12)


@WAYS
def test_constant_scores_give_the_share_of_relevant_images(how: ranking.How) -> None:
    _, relevant = sample(97, 5, None)
    result = average_precision(np.full((97, 5), 0.25), relevant, how)
    np.testing.assert_allclose(result, relevant.mean(0), rtol=1e-7)


@WAYS
def test_perfect_order_gives_one(how: ranking.How) -> None:
    _, relevant = sample(50, 4, None)
    assert (average_precision(relevant, relevant, how) == 1).all()


def test_reversed_order_has_a_closed_form() -> None:
    n, positives = 40, 10
    scores = np.arange(n, 0, -1.0)[:, None]
    relevant = (np.arange(n) >= n - positives).astype(int)[:, None]
    # the i-th relevant image comes at rank n - positives + i
    expected = np.mean([i / (n - positives + i) for i in range(1, positives + 1)])
    assert average_precision(scores, relevant)[0] == pytest.approx(expected, rel=1e-14)
    # precision rises all the way, so each recall's best is the last: positives / n
    assert average_precision(scores, relevant, "voc2007")[0] == pytest.approx(positives / n, rel=1e-14)


def test_three_of_ten_reach_a_recall_of_three_tenths() -> None:
    # 3 * 0.1 is above 3 / 10 in floating point, which would lose this point
    relevant = np.array([1, 1, 1] + [0] * 90 + [1] * 7)[:, None]
    scores = -np.arange(100.0)[:, None]
    assert average_precision(scores, relevant, "voc2007")[0] == pytest.approx((4 + 7 * 0.1) / 11, rel=1e-12)


def test_order_of_images_and_device_type_do_not_matter() -> None:
    scores, relevant = sample(200, 3, 4)
    lot = np.random.default_rng(1).permutation(200)
    for how in ("area", "voc2007"):
        there = average_precision(scores, relevant, how)
        np.testing.assert_array_equal(there, average_precision(scores[lot], relevant[lot], how))
        given = average_precision(torch.from_numpy(scores), torch.from_numpy(relevant) > 0, how)
        np.testing.assert_array_equal(there, given)


def test_arrays_that_may_not_be_written_are_taken(recwarn: pytest.WarningsRecorder) -> None:
    scores, relevant = sample(20, 3, None)
    labels = relevant.argmax(1)
    expected = average_precision(scores, relevant), accuracy(scores, labels)
    for array in (scores, relevant, labels):
        array.flags.writeable = False
    np.testing.assert_array_equal(average_precision(scores, relevant), expected[0])
    assert accuracy(scores, labels) == expected[1]
    assert not list(recwarn)


def test_labels_are_one_relevant_class_an_image() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 80)
    scores, _ = sample(80, 4, None)
    np.testing.assert_array_equal(average_precision(scores, labels), average_precision(scores, np.eye(4)[labels]))


def test_classes_without_relevant_images_are_left_out_and_counted() -> None:
    scores, relevant = sample(60, 5, None)
    relevant[:, [1, 3]] = 0
    present = [0, 2, 4]
    for how in ("area", "voc2007"):
        mean = mean_average_precision(scores, relevant, how)
        assert mean[1:] == (3, 2)
        assert mean.mean == pytest.approx(
            average_precision(scores[:, present], relevant[:, present], how).mean(), rel=1e-14
        )
    nothing = mean_average_precision(scores, np.zeros_like(relevant))
    assert math.isnan(nothing.mean) and nothing.counted == 0


def test_blocks_of_classes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, relevant = sample(50, 7, 5)
    whole = average_precision(scores, relevant, "voc2007")
    monkeypatch.setattr(ranking, "AT_ONCE", 120)
    np.testing.assert_array_equal(average_precision(scores, relevant, "voc2007"), whole)


@pytest.mark.parametrize("classes", [2, 3, 7, 67, 101])
@pytest.mark.parametrize("n", [1, 10, 333])
def test_constant_scores_give_exactly_one_over_classes(classes: int, n: int) -> None:
    labels = np.random.default_rng(n).integers(0, classes, n)
    assert accuracy(np.zeros((n, classes), np.float32), labels) == 1 / classes


@pytest.mark.parametrize("levels", [None, 2, 6])
def test_accuracy_is_the_expectation_over_ties(levels: int | None) -> None:
    scores, _ = sample(200, 6, levels)
    labels = np.random.default_rng(2).integers(0, 6, 200)
    assert accuracy(scores, labels) == expected_accuracy(scores, labels)
    if levels is None:
        assert accuracy(scores, labels) == (scores.argmax(1) == labels).mean()


def test_zeros_of_either_sign_tie() -> None:
    assert accuracy(np.array([[0.0, -0.0]]), np.array([1])) == 0.5
    result = average_precision(np.array([[-0.0], [0.0]]), np.array([[1], [0]]))
    assert result[0] == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(np.full((2, 2), np.nan), np.zeros(2, int)), "2 of 2 rows of scores hold NaN"),
        (lambda: average_precision(np.array([[1.0], [np.nan]]), np.ones((2, 1))), "1 of 2 rows"),
        (lambda: accuracy(np.zeros((2, 3)), np.array([0, 3])), "labels run from 0 to 3"),
        (lambda: accuracy(np.zeros((2, 3)), np.zeros((2, 3))), "mean average precision"),
        (lambda: accuracy(np.zeros(3), np.zeros(3, int)), "no table"),
        (lambda: accuracy(np.zeros((0, 3)), np.zeros(0, int)), "no table"),
        (lambda: average_precision(np.zeros((2, 3)), np.full((2, 3), 2)), "give 0 and 1"),
        (lambda: average_precision(np.zeros((2, 3)), np.full((2, 3), -1)), "give 0 and 1"),
        (lambda: average_precision(np.zeros((2, 3)), np.ones((2, 2))), "same shape"),
        (lambda: average_precision(np.zeros((2, 3)), np.ones((2, 3)), "roc"), "area or voc2007"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_said(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=message):
        call()
