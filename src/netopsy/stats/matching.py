"""Which unit of one layer is which unit of the other, by their correlations.

Source: Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent Learning: Do different neural networks learn the same
representations?", ICLR 2016, Section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment

NOBODY = -1


@dataclass(frozen=True)
class Matching:
    """A partner in B for each unit of A.

    partner: unit of B, or -1 where there is none: the unit is dead, B has no live unit, or (bipartite only) A has more
    live units than B. correlation: with the partner, -1..1, and 0 where there is none. dead_a, dead_b: the units that
    took no part.
    """

    partner: Int64[np.ndarray, " p"]
    correlation: Float64[np.ndarray, " p"]
    choices: Int64[np.ndarray, " q"]
    dead_a: Int64[np.ndarray, " dead_a"]
    dead_b: Int64[np.ndarray, " dead_b"]

    @property
    def matched(self) -> Int64[np.ndarray, " matched"]:
        """The units of A that have a partner, in order."""
        return np.flatnonzero(self.partner != NOBODY)

    @property
    def mean(self) -> float:
        """Mean correlation of the matched units; 0 where there are none."""
        return float(self.correlation[self.matched].mean()) if len(self.matched) else 0.0

    @property
    def ranked(self) -> Int64[np.ndarray, " matched"]:
        """The matched units of A, the best correlated first; equal ones in order."""
        return self.matched[np.argsort(-self.correlation[self.matched], kind="stable")]

    @property
    def popular(self) -> Int64[np.ndarray, " popular"]:
        """The units of B that more than one unit of A chose, the most chosen first; `choices` says how often."""
        several = np.flatnonzero(self.choices > 1)
        return several[np.argsort(-self.choices[several], kind="stable")]

    @property
    def unchosen(self) -> Int64[np.ndarray, " unchosen"]:
        """The live units of B that nobody chose, in order."""
        return np.setdiff1d(np.flatnonzero(self.choices == 0), self.dead_b)


Dead = Bool[np.ndarray, " units"] | None


def semi_matching(correlation: Float64[np.ndarray, "p q"], dead_a: Dead = None, dead_b: Dead = None) -> Matching:
    """For each unit of A the unit of B that it correlates with most; several may choose the same.

    dead_a, dead_b: units that take no part; by default those that correlate 0 with all others. Of equal correlations
    the first unit wins.
    """
    rows, columns = _live(correlation, dead_a, dead_b)
    live = correlation[np.ix_(rows, columns)]
    if not live.size:
        rows, best = rows[:0], columns[:0]
    else:
        best = columns[live.argmax(1)]
    return _matching(correlation, rows, best, dead_a, dead_b)


def bipartite_matching(correlation: Float64[np.ndarray, "p q"], dead_a: Dead = None, dead_b: Dead = None) -> Matching:
    """The one-to-one matching with the largest sum of correlations; as many pairs as the smaller layer has live units.

    dead_a, dead_b: as for `semi_matching`. Source of the algorithm: Crouse, "On implementing 2D rectangular assignment
    algorithms", IEEE Transactions on Aerospace and Electronic Systems 52 (2016), as in scipy.
    """
    rows, columns = _live(correlation, dead_a, dead_b)
    first, second = linear_sum_assignment(correlation[np.ix_(rows, columns)], maximize=True)
    return _matching(correlation, rows[first], columns[second], dead_a, dead_b)


def agreement(first: Matching, second: Matching) -> float:
    """Share, of the units of A that have a partner in both matchings, of those whose partner is the same; 0..1.

    0 where no unit has a partner in both.
    """
    both = (first.partner != NOBODY) & (second.partner != NOBODY)
    return float((first.partner == second.partner)[both].mean()) if both.any() else 0.0


def _matching(correlation: np.ndarray, rows: np.ndarray, partners: np.ndarray, dead_a: Dead, dead_b: Dead) -> Matching:
    p, q = correlation.shape
    partner, partner_correlation = np.full(p, NOBODY, np.int64), np.zeros(p)
    partner[rows], partner_correlation[rows] = partners, correlation[rows, partners]
    choices = np.bincount(partners, minlength=q)
    alive_a, alive_b = _live(correlation, dead_a, dead_b)
    return Matching(
        partner, partner_correlation, choices, np.setdiff1d(np.arange(p), alive_a), np.setdiff1d(np.arange(q), alive_b)
    )


def _live(correlation: np.ndarray, dead_a: Dead, dead_b: Dead) -> tuple[np.ndarray, np.ndarray]:
    """The units of A and of B that take part."""
    if not np.isfinite(correlation).all():
        raise ValueError("a correlation is not finite")
    off_a = (correlation == 0).all(1) if dead_a is None else dead_a
    off_b = (correlation == 0).all(0) if dead_b is None else dead_b
    return np.flatnonzero(~off_a), np.flatnonzero(~off_b)
