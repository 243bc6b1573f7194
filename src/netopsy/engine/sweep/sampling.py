"""Which images to show next: those whose verdict an edit is likely to turn, more often."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from netopsy.engine.sweep.confidence import Draws

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
        self.drawn = np.zeros(self.size, bool)

    def weights(self, flips: Float64[np.ndarray, "variants strata"]) -> Float64[np.ndarray, " strata"]:
        """Weights for the next round from each variant's rates of flips; every variant has the same say.

        The square root makes the variance of the estimate smallest (Neyman); FLOOR keeps the largest step, and with it
        the number of draws that a harmless variant needs, small.
        """
        each = np.sqrt(flips + FLOOR)
        return (each / (each @ self.sizes / self.size)[:, None]).mean(axis=0)

    def draw(self, count: int, weights: Float64[np.ndarray, " strata"]) -> tuple[Int64[np.ndarray, " steps"], Draws]:
        """The next images in order, and the steps. One after another, with probabilities in proportion to the weights.

        Source: Efraimidis & Spirakis, "Weighted random sampling with a reservoir", IPL 97 (2006): exponential keys.
        """
        rest = np.flatnonzero(~self.drawn)
        own = weights[self.strata[rest]]
        lot = np.random.default_rng([self.seed, self.rounds])
        order = np.argsort(lot.exponential(size=len(rest)) / own, kind="stable")[:count]
        before = np.cumsum(own[order]) - own[order]
        mass = (own.sum() - before) / self.size
        most = [
            1 / min((weights[s] for s in np.flatnonzero(self.left) if self.positive[s] == verdict), default=np.inf)
            for verdict in (True, False)
        ]
        return rest[order], Draws(mass / own[order], mass * most[0], mass * most[1])

    def take(self, images: Int64[np.ndarray, " steps"]) -> None:
        """Count a round as done."""
        self.drawn[images] = True
        self.left = self.sizes - np.bincount(self.strata[self.drawn], minlength=len(self.sizes))
        self.rounds += 1
