"""Tests of treatments on the same images: against loops, scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_triage import cochran_q as slow_q
from reference_triage import correlations
from reference_triage import permutation_p as slow_p
from scipy.stats import chi2, norm, ttest_1samp
from scipy.stats import t as student

from netopsy.stats.hypothesis_tests import cochran_q, detectable, detectable_mean, holm, mean_interval, permutation_p
from netopsy.studies.triage.storage import Correlation


def random_right(k: int, n: int = 120, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    hard = generator.random(n)[:, None]
    return generator.random((n, k)) < 0.3 + 0.5 * hard + 0.03 * np.arange(k)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_q_is_that_of_the_loops(k: int) -> None:
    right = random_right(k, seed=k)
    q, p = cochran_q(right)
    assert q == pytest.approx(slow_q(right)) and p == pytest.approx(chi2.sf(slow_q(right), k - 1))


def test_q_of_two_is_mcnemar() -> None:
    right = random_right(2, seed=9)
    b, c = (right[:, 0] & ~right[:, 1]).sum(), (right[:, 1] & ~right[:, 0]).sum()
    assert cochran_q(right)[0] == pytest.approx((b - c) ** 2 / (b + c))


def test_images_on_which_all_agree_say_nothing() -> None:
    right = random_right(3)
    more = np.concatenate([right, np.ones((50, 3), bool), np.zeros((70, 3), bool)])
    assert cochran_q(more)[0] == pytest.approx(cochran_q(right)[0])
    assert cochran_q(np.ones((10, 3), bool)) == (0.0, 1.0)


def test_q_rejects_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    ps = np.array([cochran_q(generator.random((150, 4)) < 0.6)[1] for _ in range(600)])
    assert 0.025 < (ps < 0.05).mean() < 0.08 and 0.4 < (ps < 0.5).mean() < 0.6


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (2, 4)])
def test_permutations_are_all_of_them(shape: tuple[int, int]) -> None:
    scores = np.random.default_rng(1).random(shape)
    p, least = permutation_p(scores)
    assert p == pytest.approx(slow_p(scores))
    clear = np.tile(np.arange(shape[1]), (shape[0], 1)) / 10
    assert permutation_p(clear)[0] == pytest.approx(least) == pytest.approx(slow_p(clear))


def test_drawn_permutations_come_near_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(5).random((3, 4)) + 0.15 * np.arange(4)
    exact = permutation_p(scores)[0]
    monkeypatch.setattr("netopsy.stats.hypothesis_tests.EXACT", 500)
    approximate = permutation_p(scores, seed=1)[0]
    assert approximate == permutation_p(scores, seed=1)[0] and approximate == pytest.approx(exact, abs=0.06)


def test_one_repeat_or_one_treatment_says_nothing() -> None:
    assert permutation_p(np.ones((1, 4))) == (1.0, 1.0) == permutation_p(np.ones((3, 1)))
    assert detectable_mean(np.ones((1, 4))) is None and detectable(np.ones((9, 1), bool)) is None


def test_holm_is_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).random(6)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values.tolist()) == pytest.approx((expected.low, expected.high))
    assert mean_interval([0.5]) == (None, None)


def test_a_detectable_difference_is_detected_in_four_of_five_cases() -> None:
    generator = np.random.default_rng(3)
    n, share = 2000, 0.1
    plain = np.stack([generator.random(n) < 0.7] * 2, 1)
    flips = generator.random((n, 2)) < share / 2
    reach = detectable(plain ^ flips)
    assert reach is not None
    disagree = 2 * (share / 2) * (1 - share / 2)
    assert reach == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * np.sqrt(disagree / n), rel=0.15)
    detections = 0
    for _ in range(300):
        turns = generator.random(n)
        lost, won = turns < (disagree + reach) / 2, turns > 1 - (disagree - reach) / 2
        b, c = int(lost.sum()), int(won.sum())
        detections += (b - c) ** 2 / (b + c) > chi2.ppf(0.95, 1)
    assert 0.72 < detections / 300 < 0.88


@pytest.mark.parametrize(("repeats", "treatments"), [(6, 2), (5, 4)])
def test_a_detectable_mean_is_detected_in_four_of_five_cases(repeats: int, treatments: int) -> None:
    generator = np.random.default_rng(4)
    pairs, free = treatments * (treatments - 1) / 2, (repeats - 1) * (treatments - 1)
    critical, detections, reaches = student.ppf(1 - 0.025 / pairs, free), 0, []

    def draw() -> np.ndarray:
        normal = generator.standard_normal
        return 0.01 * normal((repeats, treatments)) + 0.05 * normal((repeats, 1))

    for _ in range(600):
        reach = detectable_mean(draw())
        assert reach is not None
        reaches.append(reach**2)
    reach = np.sqrt(np.mean(reaches))  # at the true spread
    for _ in range(600):
        scores = 0.01 * generator.standard_normal((repeats, treatments)) + 0.05 * generator.standard_normal(
            (repeats, 1)
        )
        scores[:, 1] += reach
        residual = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        error = np.sqrt((residual**2).sum() / free * 2 / repeats)
        detections += abs(scores[:, 1].mean() - scores[:, 0].mean()) / error > critical
    assert 0.74 < detections / 600 < 0.88


def test_a_detectable_mean_of_two_treatments_is_that_of_the_paired_t_test() -> None:
    scores = 0.5 + 0.01 * np.random.default_rng(2).standard_normal((7, 2))
    error = (scores[:, 1] - scores[:, 0]).std(ddof=1) / np.sqrt(7)
    assert detectable_mean(scores) == pytest.approx((student.ppf(0.975, 6) + student.ppf(0.8, 6)) * error)
    assert detectable_mean(np.array([[0.0, 1.0], [1.0, 0.0]])) == 1.0  # no more than the whole scale


def test_correlations_are_numpys_batch_by_batch() -> None:
    generator = np.random.default_rng(0)
    a = generator.random((12, 4, 3, 3)) + 100  # far from zero
    b = np.concatenate([a[:, 1:2] * 2 - 3, -a[:, :1], generator.random((12, 3, 3, 3))], 1)
    correlation = Correlation()
    for rows in (slice(0, 5), slice(5, 12)):
        correlation.update(torch.from_numpy(a[rows]), torch.from_numpy(b[rows]))
    assert correlation.result() == pytest.approx(correlations(a, b), abs=1e-9)
    assert correlation.result()[1, 0] == pytest.approx(1) and correlation.result()[0, 1] == pytest.approx(-1)


def test_tokens_have_their_channels_last_and_constant_ones_correlate_with_nothing() -> None:
    generator = np.random.default_rng(0)
    a = generator.random((6, 5, 3))
    a[..., 2] = 0.7
    last, first = Correlation(-1), Correlation(1)
    last.update(torch.from_numpy(a), torch.from_numpy(a))
    moved = np.moveaxis(a, -1, 1)
    first.update(torch.from_numpy(moved), torch.from_numpy(moved))
    assert last.result() == pytest.approx(first.result()) and last.result()[2].tolist() == [0, 0, 0]
    assert last.result().diagonal() == pytest.approx([1, 1, 0])
