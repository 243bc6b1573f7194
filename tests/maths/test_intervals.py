"""Closed-form intervals against scipy and against exact coverage."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest, multinomial

from netopsy.stats.hypothesis_tests import paired_difference, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 50), (7, 50), (50, 50), (9173, 10000)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_seen_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("loss", "gain"), [(0.02, 0.02), (0.1, 0.02), (0.3, 0.1), (0.005, 0.0)])
def test_paired_difference_covers_by_enumeration(loss: float, gain: float) -> None:
    n, covered = 60, 0.0
    law = multinomial(n, [loss, gain, 1 - loss - gain])
    for losses in range(n + 1):
        for gains in range(n + 1 - losses):
            low, high = paired_difference(losses, gains, n)
            if low <= loss - gain <= high:
                covered += law.pmf([losses, gains, n - losses - gains])
    assert covered >= 0.94


def test_paired_difference_nears_the_wald_interval() -> None:
    n, losses, gains = 1_000_000, 30_000, 10_000
    p, q = losses / n, gains / n
    spread = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / n)
    assert paired_difference(losses, gains, n) == pytest.approx((p - q - spread, p - q + spread), abs=1e-5)


def test_paired_difference_changes_sign_with_its_arguments() -> None:
    low, high = paired_difference(5, 2, 100)
    assert paired_difference(2, 5, 100) == pytest.approx((-high, -low))
