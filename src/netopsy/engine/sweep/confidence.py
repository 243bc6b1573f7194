"""Confidence sequences for the mean of a finite set, drawn with chosen probabilities and without replacement.

Source: Shekhar, Xu, Lipton, Liang & Ramdas, "Risk-limiting financial audits via weighted sampling without replacement",
UAI 2023, with the bets of Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86
(2024). At step t item I is drawn from those that remain with probability p(I), and

    Z = x(I) / (N p(I)) + (sum of the x drawn before) / N

has, given all that went before, the mean of x over the set as its expectation. So for the true mean m the wealth
prod (1 + bet * (Z - m)) of a gambler whose bets are fixed before each draw is a nonnegative martingale with mean 1, and
by Ville's inequality it ever reaches 1 / alpha with probability at most alpha. Every m whose wealth has reached that is
ruled out for good, at whatever step one looks or stops. Items whose x is likely to be large are drawn more often.

That needs bounds on x (`ConfidenceSequence`). Where there are none the sum of Z - m is a martingale all the same, and
`AsymptoticSequence` bounds it as Brownian motion is bounded, which holds for many draws.

A set whose items weigh differently, w(i) each, has the mean sum(w d) / sum(w), which is the mean of x = w d N / sum(w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

ALPHA = 0.05
BOLDNESS = 0.9  # share of the largest bet that cannot lose more than everything


@dataclass(frozen=True)
class ImportanceDraws:
    """Steps of the sampling, known before the outcomes.

    ratio: 1 / (N p) of the item drawn, float64 (steps,).
    up, down: largest x / (N p) that a remaining item may have, and largest -x / (N p); 0 for none.
    """

    ratio: Float64[np.ndarray, " steps"]
    up: Float64[np.ndarray, " steps"]
    down: Float64[np.ndarray, " steps"]

    def part(self, start: int, stop: int) -> ImportanceDraws:
        return ImportanceDraws(self.ratio[start:stop], self.up[start:stop], self.down[start:stop])


class ConfidenceSequence:
    """An interval for the mean of `size` bounded values: at all steps at once with probability 1 - alpha.

    least, most: bounds on the mean that are known beforehand.
    resolution: width of the cells of means that are ruled out together (a cell's wealth is that of its worst mean).
    """

    def __init__(self, size: int, least: float, most: float, resolution: float, alpha: float = ALPHA) -> None:
        self.size, self.limit, self.total = size, math.log(1 / alpha), 0.0
        edges = np.linspace(least, most, max(2, math.ceil((most - least) / resolution) + 1))
        self.below, self.above = edges[:-1], edges[1:]
        self.wealth = np.zeros(len(self.below))
        self.low, self.high = least, most

    def update(self, values: NDArray[np.float64], draws: ImportanceDraws, mean: float, variance: float) -> None:
        """Take up outcomes x (steps,). mean, variance: of Z, guessed before the outcomes were seen."""
        past = self.total + (np.cumsum(values) - values) / self.size
        z = values * draws.ratio + past
        # of a cell, the mean that is nearest to the guess: a bet wins least against it
        edge = np.clip(mean, self.below, self.above)
        gap = mean - edge
        bet = np.broadcast_to(gap / (variance + gap * gap + 1e-12), (len(z), len(edge)))
        room_above = np.maximum((past + draws.up)[:, None] - edge, 1e-9)
        room_below = np.maximum(edge - (past - draws.down)[:, None], 1e-9)
        bet = np.clip(bet, -BOLDNESS / room_above, BOLDNESS / room_below)
        wealth = self.wealth + np.cumsum(np.log1p(bet * (z[:, None] - edge)), axis=0)
        alive = wealth.max(axis=0) < self.limit
        self.wealth = wealth[-1]
        if alive.any():  # a set that is empty has missed already: keep the last one
            self.below, self.above, self.wealth = self.below[alive], self.above[alive], self.wealth[alive]
        self.total += float(values.sum()) / self.size

    def narrow(self, ups: float, downs: float) -> tuple[float, float]:
        """(low, high) when the rest sums to `ups` at most and to `-downs` at least; never wider than before."""
        low = max(self.low, float(self.below[0]), self.total - downs / self.size)
        high = min(self.high, float(self.above[-1]), self.total + ups / self.size)
        if low <= high:
            self.low, self.high = low, high
        if ups == downs == 0:
            self.low = self.high = self.total
        return self.low, self.high


FIRST_LOOK = 64  # draws
DIFFERENT = 8  # of them with a value that is not 0


class AsymptoticSequence:
    """An interval for the mean of `size` values without known bounds: at all steps from the first look on, with a
    probability that nears 1 - alpha the later that look is.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
    sequences", Annals of Statistics 52 (2024): the Gaussian-mixture boundary of Robbins for a martingale of estimated
    variance V,

        |sum of weight * (Z - m)| < sqrt((V rho^2 + 1) / rho^2 * log((V rho^2 + 1) / alpha^2)).

    It takes that the variance grows without bound and that no single value governs it (Lindeberg's condition): rare
    huge values that no draw has met yet are beyond it, as they are beyond Student's interval. So there is no interval
    before `FIRST_LOOK` draws, `DIFFERENT` of them with values other than 0, and one draw more is reckoned with, as far
    from the mean as the farthest, to either side. Simulated, at most 5 % of the intervals miss with values that are
    normal, Student's t with 3 degrees of freedom, log-normal with sigma = 1, or mostly 0; with sigma = 1.5, 10 to 20 %.

    Each step weighs as 1 over the variance that the draw alone gives it, which shrinks as the set is used up; after the
    last item the interval is the mean.
    """

    def __init__(self, size: int, alpha: float = ALPHA) -> None:
        self.size, self.alpha, self.total = size, alpha, 0.0
        self.draws, self.different, self.weight, self.sum = 0, 0, 0.0, 0.0
        self.variance, self.largest, self.rho = 0.0, 0.0, 0.0
        self.low, self.high = -math.inf, math.inf

    def update(self, values: NDArray[np.float64], draws: ImportanceDraws, mean: float, variance: float) -> None:
        """Take up outcomes x (steps,). mean: of Z, guessed before; variance: of Z, up to a factor for all steps."""
        past = self.total + (np.cumsum(values) - values) / self.size
        z = values * draws.ratio + past
        self.draws, self.different = self.draws + len(z), self.different + int(np.count_nonzero(values))
        self.weight += len(z) / variance
        self.sum += float(z.sum()) / variance
        self.variance += float(np.square(z - mean).sum()) / variance**2
        self.largest = max(self.largest, float(np.abs(z - mean).max(initial=0.0)) / variance)
        self.total += float(values.sum()) / self.size

    def narrow(self, ups: float, downs: float) -> tuple[float, float]:
        """(low, high) when the rest sums to `ups` at most and to `-downs` at least; never wider than before."""
        if ups == downs == 0 or not math.isfinite(self.total):
            self.low = self.high = self.total
        elif self.draws >= FIRST_LOOK and self.different >= DIFFERENT:
            variance = self.variance + self.largest**2
            if not self.rho:  # the boundary is tightest at four times the variance of the first look
                best = -2 * math.log(self.alpha)
                self.rho = math.sqrt((best + math.log(best) + 1) / (4 * variance))
            grown = variance * self.rho**2 + 1
            half = (math.sqrt(grown * math.log(grown / self.alpha**2)) / self.rho + self.largest) / self.weight
            middle = self.sum / self.weight
            low, high = max(self.low, middle - half), min(self.high, middle + half)
            if low <= high:
                self.low, self.high = low, high
        return self.low, self.high


# Strata end at these shares of the samples by margin, narrow ones first: few samples are near the decision boundary.
_RIGHT = (0.01, 0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.65, 1.0)
_WRONG = (0.2, 0.5, 1.0)
_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
FLOOR = 0.002


@dataclass(frozen=True)
class Strata:
    """A set in strata, and what is known of its values before any is drawn.

    numbers: the stratum of each item (n,). weights: what each counts for in the mean, 1 on average (n,); items of
    weight 0 are never drawn. up, down: x is at most `up` and at least `-down` (n,).
    first, second: guesses of the mean of x and of x^2 in each stratum.
    """

    numbers: Int64[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]
    up: Float64[np.ndarray, " n"]
    down: Float64[np.ndarray, " n"]
    first: Float64[np.ndarray, " strata"]
    second: Float64[np.ndarray, " strata"]


def strata_by_margin(margins: Float64[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> Strata:
    """Samples that are right or wrong: x is 1 where a right one turns wrong, -1 the other way, else 0.

    margins: by how much the highest output leads, or what a sample lacks to be right (n,). right: verdicts (n,).
    The guess: fewer turn where the margin is larger.
    """
    numbers = np.zeros(len(right), np.int64)
    first: list[float] = []
    for verdict, ends in ((True, _RIGHT), (False, _WRONG)):
        members = np.flatnonzero(right == verdict)
        members = members[np.argsort(margins[members], kind="stable")]
        parts = np.split(members, np.unique((np.array(ends[:-1]) * len(members)).astype(int)))
        for rank, part in enumerate(part for part in parts if len(part)):
            numbers[part] = len(first)
            first.append((1 if verdict else -1) * 0.1 * 0.5**rank)
    ones = np.ones(len(right))
    up = right.astype(float)
    return Strata(numbers, ones, up, 1 - up, np.array(first), np.abs(first))


def strata_by_weight(
    weights: Float64[np.ndarray, " n"], up: Float64[np.ndarray, " n"], down: Float64[np.ndarray, " n"]
) -> Strata:
    """Samples of `weights` places each, whose drops are at most `up` and at least `-down` (n,), perhaps infinite."""
    scale = weights * (np.count_nonzero(weights) / max(float(weights.sum()), 1e-300))
    counted = np.flatnonzero(scale)
    if not len(counted):
        return Strata(np.zeros(len(scale), np.int64), scale, scale, scale, np.zeros(1), np.ones(1))
    numbers, members = np.zeros(len(scale), np.int64), counted[np.argsort(scale[counted], kind="stable")]
    # samples of one weight are one stratum
    ends = np.unique(np.searchsorted(scale[members], np.quantile(scale[members], _WEIGHTS), side="right"))
    numbers[members] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    heaviest = np.array([scale[part].max() for part in np.split(members, ends[:-1])])
    most, least = (np.where(scale > 0, bound, 0.0) * scale for bound in (up, down))
    return Strata(numbers, scale, most, least, np.zeros(len(ends)), 0.01 * heaviest**2)


class Sampler:
    """Draws without replacement, in rounds; the probabilities of a round are fixed before it.

    size: how many items can be drawn. sizes, left: of each stratum, and what of it is not drawn yet.
    """

    def __init__(self, strata: Strata, seed: int) -> None:
        self.known, self.strata, self.seed, self.rounds = strata, strata.numbers, seed, 0
        count = len(strata.first)
        self.sampled = strata.weights == 0
        self.size = int(np.count_nonzero(~self.sampled))
        self.sizes = np.bincount(self.strata[~self.sampled], minlength=count)
        self.left = self.sizes.copy()
        self.mass = np.bincount(self.strata, weights=strata.weights, minlength=count)
        self.heaviest, self.up, self.down = (
            np.array([values[self.strata == s].max(initial=0.0) for s in range(count)])
            for values in (strata.weights, strata.up, strata.down)
        )

    @property
    def bounded(self) -> bool:
        """Whether all values have known bounds."""
        return bool(np.isfinite(self.up).all() and np.isfinite(self.down).all())

    @property
    def room(self) -> tuple[float, float]:
        """The largest sum of x over what is not drawn yet, and the largest of -x."""
        rest = ~self.sampled
        return float(self.known.up[rest].sum()), float(self.known.down[rest].sum())

    def weights(self, squares: Float64[np.ndarray, "variants strata"]) -> Float64[np.ndarray, " strata"]:
        """Weights for the next round from each variant's mean x^2; every variant has the same say.

        The square root makes the variance of the estimate smallest (Neyman); FLOOR keeps the largest step, and with it
        the number of draws that a harmless variant needs, small.
        """
        each = np.sqrt(squares + FLOOR * self.heaviest**2)
        return (each / (each @ self.sizes / self.size)[:, None]).mean(axis=0)

    def draw(
        self, count: int, weights: Float64[np.ndarray, " strata"]
    ) -> tuple[Int64[np.ndarray, " steps"], ImportanceDraws]:
        """The next items in order, and the steps. One after another, with probabilities in proportion to the weights.

        Source: Efraimidis & Spirakis, "Weighted random sampling with a reservoir", IPL 97 (2006): exponential keys.
        """
        rest = np.flatnonzero(~self.sampled)
        rest_weights = weights[self.strata[rest]]
        generator = np.random.default_rng([self.seed, self.rounds])
        order = np.argsort(generator.exponential(size=len(rest)) / rest_weights, kind="stable")[:count]
        before = np.cumsum(rest_weights[order]) - rest_weights[order]
        mass = (rest_weights.sum() - before) / self.size
        there = self.left > 0
        up, down = (float((bound[there] / weights[there]).max(initial=0.0)) for bound in (self.up, self.down))
        return rest[order], ImportanceDraws(mass / rest_weights[order], mass * up, mass * down)

    def take(self, items: Int64[np.ndarray, " steps"]) -> None:
        """Count a round as done."""
        self.sampled[items] = True
        drawn = self.sampled & (self.known.weights > 0)
        self.left = self.sizes - np.bincount(self.strata[drawn], minlength=len(self.sizes))
        self.rounds += 1


PRIOR = 2.0  # draws that the first guess of a stratum is worth


class Audit:
    """A confidence sequence a variant for the mean of one measure, and the sums that bets and estimates are made from.

    resolution: of the bounds of bounded values, see `ConfidenceSequence`. bounded: whether values have the bounds that
    the sampler knows. active: which variants take part in a round.
    """

    def __init__(self, variants: int, sampler: Sampler, resolution: float, bounded: bool = True) -> None:
        self.sampler, self.bounded, n = sampler, bounded, max(1, sampler.size)
        up, down = sampler.room
        self.sequences: list[ConfidenceSequence | AsymptoticSequence] = [
            ConfidenceSequence(n, -down / n, up / n, resolution) if bounded else AsymptoticSequence(n)
            for _ in range(variants)
        ]
        self.first, self.second, self.seen, self.weight = (np.zeros((variants, len(sampler.sizes))) for _ in range(4))
        self.active = np.ones(variants, bool)

    @property
    def guesses(self) -> tuple[Float64[np.ndarray, "variants strata"], Float64[np.ndarray, "variants strata"]]:
        """Guessed means of x and of x^2 in each stratum."""
        known = self.sampler.known
        pairs = ((self.first, known.first), (self.second, known.second))
        first, second = ((sums + PRIOR * before) / (self.seen + PRIOR) for sums, before in pairs)
        return first, second

    def weights(self) -> Float64[np.ndarray, " strata"]:
        """Weights of the strata for the next round."""
        return self.sampler.weights(self.guesses[1][self.active])

    def absorb(
        self,
        items: Int64[np.ndarray, " steps"],
        draws: ImportanceDraws,
        weights: Float64[np.ndarray, " strata"],
        values: NDArray[Any],
    ) -> None:
        """Take up a round: `values` x (variants, steps); rows of variants that are done are not read."""
        sampler, left, start = self.sampler, self.sampler.left.copy(), 0
        already = int(sampler.size - left.sum())
        while start < len(items):
            stop = min(len(items), start + min(128, max(16, (already + start) // 8)))
            strata = sampler.strata[items[start:stop]]
            mass, part, (first, second) = left @ weights, draws.part(start, stop), self.guesses
            means = first @ left / sampler.size
            squares = mass / sampler.size**2 * (second @ (left / weights))
            alike = mass / sampler.size**2 * float(sampler.heaviest**2 @ (left / weights))
            counts = np.bincount(strata, minlength=len(left))
            weight = np.bincount(strata, weights=sampler.known.weights[items[start:stop]], minlength=len(left))
            for v in np.flatnonzero(self.active):
                x = values[v, start:stop].astype(float)
                sequence = self.sequences[v]
                variance = max(squares[v] - means[v] ** 2, 0.0) if self.bounded else alike
                sequence.update(x, part, sequence.total + means[v], variance)
                self.first[v] += np.bincount(strata, weights=x, minlength=len(left))
                self.second[v] += np.bincount(strata, weights=x * x, minlength=len(left))
                self.seen[v] += counts
                self.weight[v] += weight
            left, start = left - counts, stop

    def narrow(self) -> None:
        """Draw the intervals in after a round that the sampler has counted as done."""
        ups, downs = self.sampler.room
        if not self.bounded and self.sampler.left.any():
            ups = downs = math.inf
        for v in np.flatnonzero(self.active):
            self.sequences[v].narrow(ups, downs)

    def interval(self, v: int) -> tuple[float, float]:
        """(low, high) of the mean over all items."""
        return self.sequences[v].low, self.sequences[v].high

    def estimate(self, v: int) -> float:
        """The mean over all items: the strata's means, each with the stratum's share; within the interval."""
        return float(np.clip(self.total(v, self.first[v]) / float(self.sampler.mass.sum()), *self.interval(v)))

    def total(self, v: int, sums: Float64[np.ndarray, " strata"], by_count: bool = False) -> float:
        """Sum over all items, from sums over those drawn; a stratum that none was drawn from counts as the rest do.

        A stratum's sum grows with the weight of its items, or with their number where `by_count`.
        """
        seen, whole = (self.seen[v], self.sampler.sizes) if by_count else (self.weight[v], self.sampler.mass)
        drawn = seen > 0
        if not drawn.any():
            return math.nan
        return float(sums[drawn] / seen[drawn] @ whole[drawn] / whole[drawn].sum() * whole.sum())
