"""What the images drawn so far say about each variant's drop in accuracy, and which variants need no more."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from netopsy.engine.sweep.confidence import ConfidenceSequence, Draws
from netopsy.engine.sweep.sampling import Sampler

PRIOR = 2.0  # draws that the first guess of a stratum's rate of flips is worth
CELLS = 40  # cells to a precision
FINEST = 1e-4


class Audit:
    """A confidence sequence a variant, and the counts that its bets and estimates are made from.

    precision: half the width of the interval at which a variant may stop, as a share.
    """

    def __init__(self, variants: int, sampler: Sampler, precision: float) -> None:
        self.sampler, self.precision = sampler, precision
        n, self.right = sampler.size, sampler.right
        share = float(self.right.mean())
        self.sequences = [
            ConfidenceSequence(n, share - 1, share, max(precision / CELLS, FINEST)) for _ in range(variants)
        ]
        self.flips = np.zeros((variants, len(sampler.sizes)))
        self.seen = np.zeros((variants, len(sampler.sizes)))
        self.active = np.ones(variants, bool)

    @property
    def rates(self) -> Float64[np.ndarray, "variants strata"]:
        """Guessed rate of flips in each stratum; before any draw, less where the margin is larger."""
        rank = np.array([self.sampler.positive[:s].count(p) for s, p in enumerate(self.sampler.positive)])
        return (self.flips + PRIOR * 0.1 * 0.5**rank) / (self.seen + PRIOR)

    def weights(self) -> Float64[np.ndarray, " strata"]:
        """Weights of the strata for the next round."""
        return self.sampler.weights(self.rates[self.active])

    def absorb(
        self,
        images: Int64[np.ndarray, " steps"],
        draws: Draws,
        weights: Float64[np.ndarray, " strata"],
        drops: NDArray[np.int8],
    ) -> None:
        """Take up a round: `drops` (variants, steps) in {-1, 0, 1}; rows of variants that are done are not read."""
        sampler, left, start = self.sampler, self.sampler.left.copy(), 0
        already = int(sampler.size - left.sum())
        while start < len(images):
            stop = min(len(images), start + min(128, max(16, (already + start) // 8)))
            strata = sampler.strata[images[start:stop]]
            mass, part, rates = left @ weights, draws.part(start, stop), self.rates
            means = rates * sampler.sign @ left / sampler.size
            squares = mass / sampler.size**2 * (rates @ (left / weights))
            counts = np.bincount(strata, minlength=len(left))
            for v in np.flatnonzero(self.active):
                own = drops[v, start:stop].astype(float)
                sequence = self.sequences[v]
                sequence.update(own, part, sequence.total + means[v], max(squares[v] - means[v] ** 2, 0.0))
                self.flips[v] += np.bincount(strata, weights=np.abs(own), minlength=len(left))
                self.seen[v] += counts
            left, start = left - counts, stop
        sampler.take(images)
        ups, downs = (int(sampler.left[sampler.sign == sign].sum()) for sign in (1, -1))
        for v in np.flatnonzero(self.active):
            low, high = self.sequences[v].narrow(ups, downs)
            self.active[v] = high - low > 2 * self.precision and ups + downs > 0

    def estimate(self, v: int) -> float:
        """Drop over all images: the strata's mean drops, each with the stratum's share; within the interval."""
        mean = self.stratified(v, self.flips[v] * self.sampler.sign)
        return float(np.clip(mean, self.sequences[v].low, self.sequences[v].high))

    def stratified(self, v: int, sums: Float64[np.ndarray, " strata"]) -> float:
        """Mean over all images, from sums over the images drawn; a stratum not drawn from counts as the rest do."""
        drawn = self.seen[v] > 0
        means = sums[drawn] / self.seen[v][drawn]
        return float(means @ self.sampler.sizes[drawn] / self.sampler.sizes[drawn].sum())
