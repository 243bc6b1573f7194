"""Which unit of one layer is which unit of the other, by their correlations; which class goes by which number.

Source: Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent Learning: Do different neural networks learn the same
representations?", ICLR 2016, Section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

NOBODY = -1
_LEVEL = 1e-3  # of the test of a relabelling
_SHARE = 0.4  # of what a relabelling could gain beyond chance, the least that it gains


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


@dataclass(frozen=True)
class Relabelling:
    """Numbers of the classes with which the network would be right more often.

    answers: for each label that is answered as another class, which. shift: by how much all labels are off, 0 where
    they are not all off alike. before, after: shares that are right, of the half of the samples that confirmed it.
    """

    answers: dict[int, int]
    shift: int
    before: float
    after: float
    p: float


Confusion = Int64[np.ndarray, "2 classes classes"]


def find_relabelling(confusion: Confusion) -> Relabelling | None:
    """Whether the labels are off by a number, or some of them exchanged; None where there is no sign of it.

    What is found on one half of the confusions (the best offset; the best permutation by the Hungarian method, Kuhn
    1955) must hold on the other half, which had no say in it.
    """
    first, second = confusion
    if not (first.any() and second.any()):
        return None
    return _shift(first, second) or _permutation(first, second)


def _shift(first: np.ndarray, second: np.ndarray) -> Relabelling | None:
    classes = len(first)
    if classes < 3:  # of two classes a shift is an exchange
        return None
    label = np.arange(classes)
    hits = np.array([first[label, (label + k) % classes].sum() for k in range(classes)])
    shift = int(hits.argmax())
    if shift == 0:
        return None
    moved = (label + shift) % classes
    there = second.sum(1) > 0
    mended = second[label, moved] > second[label, label]
    p = _confirm(second, label, moved)
    if p > _LEVEL or mended[there].mean() < 0.5 or _gain(second, label, moved) < _SHARE:
        return None
    return _relabelling(
        second, {int(k): int(moved[k]) for k in label}, shift if shift <= classes / 2 else shift - classes, p
    )


def _permutation(first: np.ndarray, second: np.ndarray) -> Relabelling | None:
    classes = len(first)
    _, moved = linear_sum_assignment(first + 0.5 * np.eye(classes), maximize=True)  # of equal ways, that which is there
    cycles = list(_cycles(moved))
    answers: dict[int, int] = {}
    worst = 0.0
    for members in cycles:
        there = members[second[members].sum(1) > 0]
        if not len(there):
            continue
        mended = second[there, moved[there]] > second[there, there]
        p = _confirm(second, there, moved[there]) * len(cycles)
        # where all is answered as one class, that class itself is not mended by an exchange
        if p <= _LEVEL and mended.mean() >= 0.8 and _gain(second, there, moved[there]) >= _SHARE:
            answers |= {int(k): int(moved[k]) for k in members}
            worst = max(worst, p)
    return _relabelling(second, answers, 0, worst) if answers else None


def _cycles(moved: Int64[np.ndarray, " classes"]) -> Iterator[Int64[np.ndarray, " members"]]:
    """The cycles of a permutation that are longer than one."""
    seen = np.zeros(len(moved), bool)
    for start in range(len(moved)):
        members, at = [], start
        while not seen[at]:
            seen[at] = True
            members.append(at)
            at = int(moved[at])
        if len(members) > 1:
            yield np.array(members)


def _confirm(half: np.ndarray, label: np.ndarray, moved: np.ndarray) -> float:
    """The p of as many gains against losses, one-sided, if the new numbers were no better."""
    gains, losses = int(half[label, moved].sum()), int(half[label, label].sum())
    return float(binomtest(gains, gains + losses, alternative="greater").pvalue) if gains + losses else 1.0


def _gain(half: np.ndarray, label: np.ndarray, moved: np.ndarray) -> float:
    """Share of the samples of `label` that are right with the new numbers, beyond what chance would give (kappa)."""
    counts, answered = half[label].sum(1), half.sum(0) / half.sum()
    share, chance = half[label, moved].sum() / counts.sum(), (counts * answered[moved]).sum() / counts.sum()
    return float((share - chance) / max(1 - chance, 1e-9))


def _relabelling(half: np.ndarray, answers: dict[int, int], shift: int, p: float) -> Relabelling:
    label = np.arange(len(half))
    moved = np.array([answers.get(int(k), int(k)) for k in label])
    total = half.sum()
    return Relabelling(
        answers, shift, float(half[label, label].sum() / total), float(half[label, moved].sum() / total), p
    )
