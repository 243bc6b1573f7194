"""A confidence sequence for the mean of a finite set, drawn with chosen probabilities and without replacement.

Source: Shekhar, Xu, Lipton, Liang & Ramdas, "Risk-limiting financial audits via weighted sampling without replacement",
UAI 2023, with the bets of Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86
(2024). At step t item I is drawn from those that remain with probability p(I), and

    Z = d(I) / (N p(I)) + (sum of the d drawn before) / N

has, given all that went before, the mean of d over the set as its expectation. So for the true mean m the wealth
prod (1 + bet * (Z - m)) of a gambler whose bets are fixed before each draw is a nonnegative martingale with mean 1, and
by Ville's inequality it ever reaches 1 / alpha with probability at most alpha. Every m whose wealth has reached that is
ruled out for good, at whatever step one looks or stops. Images whose verdict an edit is likely to turn are drawn more
often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

ALPHA = 0.05
BOLDNESS = 0.9  # share of the largest bet that cannot lose more than everything


@dataclass(frozen=True)
class ImportanceDraws:
    """Steps of the sampling, known before the outcomes.

    ratio: 1 / (N p) of the item drawn, float64 (steps,).
    up, down: largest 1 / (N p) of the remaining items whose value may be +1, and of those that may be -1; 0 for none.
    """

    ratio: Float64[np.ndarray, " steps"]
    up: Float64[np.ndarray, " steps"]
    down: Float64[np.ndarray, " steps"]

    def part(self, start: int, stop: int) -> ImportanceDraws:
        return ImportanceDraws(self.ratio[start:stop], self.up[start:stop], self.down[start:stop])


class ConfidenceSequence:
    """An interval for the mean of `size` values in {-1, 0, 1}: at all steps at once with probability 1 - alpha.

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
        """Take up outcomes (steps,). mean, variance: of Z, guessed before the outcomes were seen."""
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

    def narrow(self, ups: int, downs: int) -> tuple[float, float]:
        """(low, high) when `ups` items remain that may be +1 and `downs` that may be -1; never wider than before."""
        low = max(self.low, float(self.below[0]), self.total - downs / self.size)
        high = min(self.high, float(self.above[-1]), self.total + ups / self.size)
        if low <= high:
            self.low, self.high = low, high
        if ups == downs == 0:
            self.low = self.high = self.total
        return self.low, self.high


# Strata end at these shares of the images by margin, narrow ones first: few images are near the decision boundary.
_RIGHT = (0.01, 0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.65, 1.0)
_WRONG = (0.2, 0.5, 1.0)
FLOOR = 0.002


class Sampler:
    """Draws without replacement, in rounds; the probabilities of a round are fixed before it.

    margins: by how much the highest output leads, or what an image lacks to be right (n,). right: verdicts (n,).
    strata: number of each image's stratum (n,); within one, all verdicts and probabilities are alike.
    """

    def __init__(self, margins: Float64[np.ndarray, " n"], right: Bool[np.ndarray, " n"], seed: int) -> None:
        self.size, self.right, self.seed, self.rounds = len(margins), right, seed, 0
        self.strata = np.zeros(self.size, np.int64)
        self.positive: list[bool] = []  # whether a stratum's images are right, so that a flip is a loss
        for verdict, ends in ((True, _RIGHT), (False, _WRONG)):
            members = np.flatnonzero(right == verdict)
            members = members[np.argsort(margins[members], kind="stable")]
            for part in np.split(members, np.unique((np.array(ends[:-1]) * len(members)).astype(int))):
                if len(part):
                    self.strata[part] = len(self.positive)
                    self.positive.append(verdict)
        self.sign = np.where(self.positive, 1.0, -1.0)
        self.sizes = np.bincount(self.strata, minlength=len(self.sign))
        self.left = self.sizes.copy()
        self.sampled = np.zeros(self.size, bool)

    def weights(self, flips: Float64[np.ndarray, "variants strata"]) -> Float64[np.ndarray, " strata"]:
        """Weights for the next round from each variant's rates of flips; every variant has the same say.

        The square root makes the variance of the estimate smallest (Neyman); FLOOR keeps the largest step, and with it
        the number of draws that a harmless variant needs, small.
        """
        each = np.sqrt(flips + FLOOR)
        return (each / (each @ self.sizes / self.size)[:, None]).mean(axis=0)

    def draw(
        self, count: int, weights: Float64[np.ndarray, " strata"]
    ) -> tuple[Int64[np.ndarray, " steps"], ImportanceDraws]:
        """The next images in order, and the steps. One after another, with probabilities in proportion to the weights.

        Source: Efraimidis & Spirakis, "Weighted random sampling with a reservoir", IPL 97 (2006): exponential keys.
        """
        rest = np.flatnonzero(~self.sampled)
        rest_weights = weights[self.strata[rest]]
        generator = np.random.default_rng([self.seed, self.rounds])
        order = np.argsort(generator.exponential(size=len(rest)) / rest_weights, kind="stable")[:count]
        before = np.cumsum(rest_weights[order]) - rest_weights[order]
        mass = (rest_weights.sum() - before) / self.size
        most = [
            1 / min((weights[s] for s in np.flatnonzero(self.left) if self.positive[s] == verdict), default=np.inf)
            for verdict in (True, False)
        ]
        return rest[order], ImportanceDraws(mass / rest_weights[order], mass * most[0], mass * most[1])

    def take(self, images: Int64[np.ndarray, " steps"]) -> None:
        """Count a round as done."""
        self.sampled[images] = True
        self.left = self.sizes - np.bincount(self.strata[self.sampled], minlength=len(self.sizes))
        self.rounds += 1
