"""Whether several treatments of the same images, in the same repeats, differ: intervals and tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float64, Int
from scipy.stats import chi2, nbinom, norm, rankdata
from scipy.stats import t as student

Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson(hits: float, n: int, z: float = Z95) -> tuple[float, float]:
    """(low, high) of a share of `hits` in `n`.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n <= 0:
        return 0.0, 1.0
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n))
    return (0.0 if hits <= 0 else max(0.0, low)), (1.0 if hits >= n else min(1.0, high))


def paired_difference(losses: float, gains: float, n: int, z: float = Z95) -> tuple[float, float]:
    """(low, high) of (losses - gains) / n: the drop between two shares measured on the same `n` samples.

    losses: samples right before and wrong after; gains: wrong before and right after.
    Source: Bonett & Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", Journal of Educational and Behavioral Statistics 37 (2012): one loss and one gain more, then Wald.
    """
    p, q = (losses + 1) / (n + 2), (gains + 1) / (n + 2)
    spread = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return max(-1.0, p - q - spread), min(1.0, p - q + spread)


def drop_bound(losses: int, gains: int, n: int, new: int, confidence: float = 0.95) -> float:
    """The drop on `new` images that is exceeded with probability 1 - confidence at most, from `n` other images.

    losses: of the n, those right before and wrong after; gains: wrong before and right after. Each image that an edit
    turns falls among the n or among the new ones as their numbers go. So the losses among the new ones, until one more
    than `losses` is among the n, are at most negative binomial, NB(losses + 1, n / (n + new)); the gains until as many
    as `gains` are there are at least NB(gains, n / (n + new)). The bound is the quantile of their difference over
    `new`, and never below the drop counted: exact where nothing is gained, and where both occur with the variance of
    independent counts, which is not too small.
    Source: Nelson, "Confidence intervals for the ratio of two Poisson means and Poisson predictor intervals", IEEE
    Trans. Reliability R-19 (1970), for each of the two counts.
    """
    if not (n and new):
        return 1.0
    rate = n / (n + new)
    (first, lost), (least, gained) = _race(losses + 1, rate), _race(gains, rate)
    chance = np.convolve(lost, gained[::-1])  # of each difference, from the smallest
    above = chance[::-1].cumsum()[::-1] - chance
    place = int(np.flatnonzero(above <= 1 - confidence + 1e-9)[0])
    return min(1.0, max((losses - gains) / n, (first - least - len(gained) + 1 + place) / new))


def mean_bound(mean: float, error: float, n: int, new: int, confidence: float = 0.95) -> float:
    """The mean over `new` samples that is exceeded with probability 1 - confidence at most, from that over `n` others.

    error: the standard error of `mean`. Student's prediction interval for a mean, one-sided, and never below the mean
    seen: mean + t(confidence, n - 1) * error * sqrt(1 + n / new). Source: Hahn & Meeker, "Statistical intervals", 1991,
    Section 4.8.
    """
    if n < 2 or not new or not math.isfinite(error):
        return math.inf
    quantile = float(student.ppf(confidence, n - 1)) if confidence > 0 else 0.0
    return mean + max(0.0, quantile) * error * math.sqrt(1 + n / new)


def _race(count: int, rate: float) -> tuple[int, Float64[np.ndarray, " values"]]:
    """The smallest value that matters, and the probabilities from there on, of NB(count, rate)."""
    if not count:
        return 0, np.ones(1)
    low, high = (int(value) for value in nbinom.ppf((1e-12, 1 - 1e-12), count, rate))
    return low, nbinom.pmf(np.arange(low, high + 1), count, rate)


EXACT = 20_000  # arrangements that are all gone through; of more, as many are drawn
POWER = 0.8
LEAST = 3  # fewer values make no interval


def mean_interval(
    values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float | None, float | None]:
    """(low, high) of the mean of independent values by Student's t at 95 %; None of fewer than three.

    limits: the least and the most that a value can be (a share 0 and 1, epochs 1 and all of them). The interval is cut
    there. The mean lies within the limits itself, so that the part cut off never held it, and what is left covers it
    exactly as often (Mandelkern, "Setting confidence intervals for bounded parameters", Statistical Science 17, 2002,
    Section 3).
    """
    if len(values) < LEAST:
        return None, None
    sample = np.asarray(values, np.float64)
    reach = float(student.ppf(0.975, len(sample) - 1)) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    mean = float(sample.mean())
    return max(limits[0], mean - reach), min(limits[1], mean + reach)


def reach(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean; infinite of fewer than three values."""
    low, high = mean_interval(values)
    return math.inf if low is None or high is None else (high - low) / 2


@dataclass(frozen=True)
class Estimate:
    """A mean with the half-widths of its two 95 % intervals (Student's t), which are kept apart.

    images: over other images; draws: over other draws of what is random, 0 where nothing is. Infinite where there are
    fewer than three to make an interval of.
    """

    mean: float
    images: float
    draws: float = 0.0

    @classmethod
    def of(
        cls, values: Float[np.ndarray, " maps"], images: Int[np.ndarray, " maps"], draws: Sequence[float] | None = None
    ) -> Estimate | None:
        """From one value a map with the map's image, and one mean a draw; None where no value is a number."""
        usable = np.isfinite(values)
        if not usable.any():
            return None
        values, images = values[usable], images[usable]
        by_image = [float(values[images == image].mean()) for image in np.unique(images)]
        drawn = 0.0 if draws is None else reach([draw for draw in draws if math.isfinite(draw)])
        return cls(float(values.mean()), reach(by_image), drawn)

    def above(self, bound: float) -> bool:
        """Whether both intervals lie above it."""
        return self.mean - max(self.images, self.draws) > bound

    def below(self, bound: float) -> bool:
        """Whether both intervals lie below it."""
        return self.mean + max(self.images, self.draws) < bound

    def span(self, over: Literal["images", "draws"], limit: float = 1.0) -> tuple[float | None, float | None]:
        """(low, high) over images or draws, within -`limit` and `limit`; None where there is none."""
        half: float = getattr(self, over)
        if not math.isfinite(half):
            return None, None
        return max(-limit, self.mean - half), min(limit, self.mean + half)


INTERVALS: dict[str, Any] = {
    **dict.fromkeys(("mean", "images_low", "images_high", "draws_low", "draws_high"), pl.Float64),
    **{"spread_maps": pl.Float64, "spread_draws": pl.Float64, "images": pl.Int64, "draws": pl.Int64},
}
"""Columns of a mean: its intervals, standard deviations, and the numbers of images and of draws (null: not drawn)."""


def interval_row(
    values: Float[np.ndarray, " maps"],
    images: Int[np.ndarray, " maps"],
    draws: Sequence[float] | None,
    limit: float = 1.0,
) -> dict[str, Any]:
    """The columns `INTERVALS` of what `Estimate.of` takes; empty where no value is a number.

    limit: no value is farther from 0.
    """
    mean = Estimate.of(values, images, draws)
    if mean is None:
        return {}
    low, high = mean.span("images", limit)
    draws_low, draws_high = (None, None) if draws is None else mean.span("draws", limit)
    return {
        **{"mean": mean.mean, "images_low": low, "images_high": high, "draws_low": draws_low, "draws_high": draws_high},
        **{"spread_maps": _spread(values), "spread_draws": None if draws is None else _spread(np.array(draws))},
        **{"images": len(np.unique(images)), "draws": None if draws is None else len(draws)},
    }


def _spread(values: Float[np.ndarray, " n"]) -> float | None:
    """Standard deviation of the numbers among the values; None of fewer than two."""
    usable = values[np.isfinite(values)]
    return float(usable.std(ddof=1)) if len(usable) > 1 else None


def cochran_q(right: Bool[np.ndarray, "images treatments"]) -> tuple[float, float]:
    """(Q, p) of the hypothesis that all treatments are right on an image with one probability.

    Images on which all treatments agree say nothing; where there are no others, Q is 0 and p 1.
    Source: Cochran, "The comparison of percentages in matched samples", Biometrika 37 (1950).
    """
    hits = right.astype(np.int64)
    k = hits.shape[1]
    columns, rows = hits.sum(0), hits.sum(1)
    below = int((rows * (k - rows)).sum())
    if k < 2 or not below:
        return 0.0, 1.0
    q = k * (k - 1) * float(((columns - columns.mean()) ** 2).sum()) / below
    return q, float(chi2.sf(q, k - 1))


def friedman(scores: Float[np.ndarray, "samples treatments"]) -> tuple[float, float]:
    """(statistic, p) of the hypothesis that on a sample any treatment could have had any of the scores.

    With mean ranks for ties; samples on which all treatments agree say nothing.
    Source: Friedman, "The use of ranks to avoid the assumption of normality", JASA 32 (1937); ties: Conover, "Practical
    nonparametric statistics", 3rd ed., Section 5.8.
    """
    n, k = scores.shape
    ranks = rankdata(scores, axis=1)
    spread = float(np.square(ranks).sum()) - n * k * (k + 1) ** 2 / 4
    if k < 2 or spread <= 1e-9 * n:
        return 0.0, 1.0
    statistic = (k - 1) * float(np.square(ranks.sum(0) - n * (k + 1) / 2).sum()) / spread
    return statistic, float(chi2.sf(statistic, k - 1))


def weighted_interval(
    values: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float | None, float | None]:
    """95 % interval of a mean over samples that weigh as many places as they have; None of fewer than three.

    Student's, of a ratio of sums whose variance is by linearisation (Cochran, Sampling Techniques, 3rd ed., Equation
    6.13), as of `sweep`: the places of one sample are not independent, samples are. Cut to `limits` as `mean_interval`.
    """
    n, total = len(values), float(weight.sum())
    if n < LEAST or not total > 0:
        return None, None
    mean = float((values * weight).sum()) / total
    error = math.sqrt(n / (n - 1) * float(np.square((values - mean) * weight).sum())) / total
    half = float(student.ppf(0.975, n - 1)) * error
    return max(limits[0], mean - half), min(limits[1], mean + half)


def permutation_p(scores: Float64[np.ndarray, "repeats treatments"], seed: int = 0) -> tuple[float, float]:
    """(p, least p possible) of the hypothesis that within a repeat any treatment could have had any of the scores.

    The statistic is the spread of the treatments' means (the numerator of F in a design of complete blocks), over all
    arrangements of the scores within each repeat where these are at most `EXACT`, else over as many drawn at random.
    The first repeat may stay as it is: only the arrangements against each other matter. Source: Pitman, "Significance
    tests which may be applied to samples from any populations, III", Biometrika 29 (1938).
    """
    repeats, k = scores.shape
    if repeats < 2 or k < 2:
        return 1.0, 1.0
    ways = math.factorial(k) ** (repeats - 1)

    def spread(total: Float64[np.ndarray, "... treatments"]) -> Float64[np.ndarray, "..."]:
        return ((total - total.mean(-1, keepdims=True)) ** 2).sum(-1)

    observed = float(spread(scores.sum(0)))
    edge = observed - 1e-9 * max(observed, 1e-300)
    if ways <= EXACT:
        orders = np.array(list(itertools.permutations(range(k))))
        totals = scores[:1]
        for row in scores[1:]:
            totals = (totals[:, None] + row[orders][None]).reshape(-1, k)
        return float((spread(totals) >= edge).mean()), 1 / ways
    generator = np.random.default_rng(seed)
    total = np.zeros((EXACT, k))
    for row in scores:
        total += generator.permuted(np.broadcast_to(row, (EXACT, k)), axis=1)
    return (float((spread(total) >= edge).sum()) + 1) / (EXACT + 1), 1 / (EXACT + 1)


@dataclass(frozen=True)
class PatternTest:
    """within, between: mean rank correlation of two patterns of one group, and of two groups.

    difference: of these, with its 95 % interval, None where a group has fewer than three. p: of a difference as large
    with the groups drawn anew; least_p: the lowest that there could have been.
    """

    within: float
    between: float
    difference: float
    low: float | None
    high: float | None
    p: float
    least_p: float


def pattern_test(patterns: Float64[np.ndarray, "n k"], groups: Sequence[str], seed: int = 0) -> PatternTest | None:
    """Whether patterns of one group are more alike than those of different groups, by Spearman's rank correlation.

    patterns: one row an independent unit, such as what each of k blocks costs a network; groups: of each row. The
    interval is the jackknife's over rows, by Student's t; p is over the assignments of the rows to the groups: all
    where these are at most `EXACT`, else as many drawn at random (with the observed one). None where no group has two
    rows, there is one group, or a row's values are all equal. Source: Mantel, "The detection of disease clustering and
    a generalized regression approach", Cancer Research 27 (1967).
    """
    groups = list(groups)
    ranks = np.apply_along_axis(rankdata, 1, patterns)
    sizes = [groups.count(name) for name in dict.fromkeys(groups)]
    if len(sizes) < 2 or max(sizes) < 2 or bool((ranks.std(1) == 0).any()):
        return None
    alike = np.corrcoef(ranks)
    names = np.array([list(dict.fromkeys(groups)).index(name) for name in groups])

    def parts(rows: Int[np.ndarray, " n"], of: Int[np.ndarray, " n"]) -> tuple[float, float]:
        upper = np.triu(np.ones((len(rows), len(rows)), bool), 1)
        same = of[:, None] == of[None]
        values = alike[np.ix_(rows, rows)]
        return float(values[upper & same].mean()), float(values[upper & ~same].mean())

    everyone = np.arange(len(groups))
    within, between = parts(everyone, names)
    difference = within - between
    low = high = None
    if min(sizes) >= LEAST:
        left_out = [np.subtract(*parts(np.delete(everyone, i), np.delete(names, i))) for i in everyone]
        n = len(groups)
        error = math.sqrt((n - 1) / n * float(np.square(np.array(left_out) - np.mean(left_out)).sum()))
        half = float(student.ppf(0.975, n - 1)) * error
        low, high = difference - half, difference + half
    ways = math.factorial(len(groups)) // math.prod(math.factorial(size) for size in sizes)
    if ways <= EXACT:
        orders = np.array(_orders(names))
    else:
        generator = np.random.default_rng(seed)
        orders = np.stack([names, *(generator.permutation(names) for _ in range(EXACT - 1))])
    drawn = np.array([np.subtract(*parts(everyone, order)) for order in orders])
    return PatternTest(
        within, between, difference, low, high, float((drawn >= difference - 1e-12).mean()), 1 / len(orders)
    )


def _orders(names: Int[np.ndarray, " n"]) -> list[list[int]]:
    """All distinct orders of some numbers, few of which differ."""
    if not len(names):
        return [[]]
    return [
        [int(first), *rest]
        for first in np.unique(names)
        for rest in _orders(np.delete(names, int(np.flatnonzero(names == first)[0])))
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of one family, adjusted so that any one below 0.05 is wrong in at most 5 % of such families.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    adjusted, highest = [1.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def detectable(right: Bool[np.ndarray, "images treatments"] | Float[np.ndarray, "images treatments"]) -> float | None:
    """The difference between two treatments' shares right, or mean scores, that so many images would show in 4 of 5
    cases.

    By the normal approximation of the paired test of each two treatments at 5 % over all pairs together (Bonferroni),
    with the share of images on which two treatments disagree (the mean squared difference) as it is, averaged over the
    pairs.
    """
    n, k = right.shape
    if k < 2:
        return None
    pairs = list(itertools.combinations(range(k), 2))
    scores = right.astype(np.float64)
    disagree = float(np.mean([np.square(scores[:, a] - scores[:, b]).mean() for a, b in pairs]))
    reach = float(norm.ppf(1 - 0.025 / len(pairs)) + norm.ppf(POWER))
    return min(1.0, reach * math.sqrt(disagree / n))


def detectable_mean(scores: Float64[np.ndarray, "repeats treatments"]) -> float | None:
    """The difference between two treatments' mean scores that so many repeats would show in 4 of 5 cases.

    As `detectable`, by Student's t and the residual spread of an additive model of repeats and treatments.
    """
    repeats, k = scores.shape
    free = (repeats - 1) * (k - 1)
    if free < 1:
        return None
    residual = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    deviation = math.sqrt(float((residual**2).sum()) / free)
    pairs = k * (k - 1) / 2
    reach = float(student.ppf(1 - 0.025 / pairs, free) + student.ppf(POWER, free))
    return min(1.0, reach * deviation * math.sqrt(2 / repeats))
