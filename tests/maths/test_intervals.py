"""Closed-form intervals against scipy and against exact coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from netopsy.stats.hypothesis_tests import drop_bound, paired_difference, wilson


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


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("n", "new"), [(60, 60), (30, 90), (200, 70)])
def test_the_bound_of_losses_alone_is_that_of_a_race(n: int, new: int, confidence: float) -> None:
    """The chance that at most k of k + t + 1 losses are among the n, toss by toss."""
    for losses in (0, 1, 2, 7):
        share, t = new / (n + new), 0
        while True:
            tosses = losses + t + 1
            if sum(math.comb(tosses, k) * (1 - share) ** k * share ** (tosses - k) for k in range(losses + 1)) <= (
                1 - confidence
            ):
                break
            t += 1
        assert drop_bound(losses, 0, n, new, confidence) == pytest.approx(min(1.0, max(t / new, losses / n)))


@pytest.mark.parametrize(
    ("loss", "gain"), [(0.0, 0.0), (0.02, 0.0), (0.05, 0.05), (0.02, 0.06), (0.1, 0.03), (0.3, 0.1), (0.4, 0.0)]
)
@pytest.mark.parametrize(("n", "new"), [(40, 60), (50, 25)])
def test_the_drop_of_new_images_exceeds_its_bound_as_rarely_as_promised(
    loss: float, gain: float, n: int, new: int
) -> None:
    """By enumeration of what n images show, and of what the new ones then do."""
    law = np.ones(1)
    for _ in range(new):
        law = np.convolve(law, [gain, 1 - loss - gain, loss])
    differences = np.arange(-new, new + 1) / new
    pairs = [(losses, gains) for losses in range(n + 1) for gains in range(n + 1 - losses)]
    chances = multinomial(n, [loss, gain, 1 - loss - gain]).pmf([(a, b, n - a - b) for a, b in pairs])
    for confidence in (0.9, 0.95):
        exceeded = 0.0
        for pair, chance in zip(pairs, chances, strict=True):
            if chance > 1e-6:
                exceeded += chance * law[differences > drop_bound(*pair, n, new, confidence) + 1e-9].sum()
        assert exceeded <= 1 - confidence


@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_the_bound_holds_for_the_last_of_a_sequence_that_passes(gain: float) -> None:
    """Edits ever harsher, whose losses grow: the harshest whose bound keeps the budget is taken, 600 times."""
    n, new, budget, lot = 600, 900, 0.02, np.random.default_rng(0)
    rates = 0.001 * 1.1 ** np.arange(60)
    bounds: dict[tuple[int, int], float] = {}
    beyond = 0
    for _ in range(600):
        lost, gained, lost_new, gained_new = (
            np.searchsorted(np.sort(lot.exponential(1, size)), rates * share).tolist()
            for size, share in ((n, 1.0), (n, gain), (new, 1.0), (new, gain))
        )
        last = -1
        for pair in zip(lost, gained, strict=True):
            if pair not in bounds:
                bounds[pair] = drop_bound(*pair, n, new)
            if bounds[pair] > budget:
                break
            last += 1
        beyond += last >= 0 and lost_new[last] - gained_new[last] > budget * new
    assert beyond <= 0.05 * 600


def test_the_bound_rises_with_losses_and_confidence_and_falls_with_gains_and_images() -> None:
    assert drop_bound(0, 0, 100, 100) == 0.04, "five heads in a row come once in 32"
    for losses, gains in ((0, 0), (3, 0), (9, 4), (200, 150)):
        here = drop_bound(losses, gains, 1000, 1000)
        assert drop_bound(losses + 1, gains, 1000, 1000) >= here >= drop_bound(losses, gains + 1, 1000, 1000)
        assert drop_bound(losses, gains, 1000, 1000, 0.99) >= here >= drop_bound(losses, gains, 1000, 1000, 0.5)
        assert drop_bound(losses, gains, 1000, 1000, 0.0) == (losses - gains) / 1000 <= here
        assert here > drop_bound(10 * losses, 10 * gains, 10_000, 10_000)
    assert drop_bound(1, 0, 0, 10) == drop_bound(5, 0, 5, 5) == 1.0
    p, q, n = 0.04, 0.03, 1_000_000
    spread = 1.644854 * math.sqrt((p + q) * 2 / n)
    assert drop_bound(round(p * n), round(q * n), n, n) == pytest.approx(p - q + spread, abs=1e-5)
