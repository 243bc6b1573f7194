"""The Boolean account of one unit: when it fires, in terms of whether its few most decisive inputs do.

From measured activations to truth values, to the few inputs that decide, and to a Karnaugh map of them: a truth table
folded so that neighbours differ in one input. Karnaugh, "The map method for synthesis of combinational logic circuits",
Transactions AIEE 72 (1953).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from netopsy.samples.labels import Labels, stratify
from netopsy.stats.describe import spread_indices
from netopsy.studies.facets.circuits import Circuits, InputSets, count_circuits, other_inputs
from netopsy.studies.facets.minimise import (
    FIRES,
    FREE,
    RESTS,
    Expression,
    ProductOfSums,
    TruthTable,
    cells_of,
    minimise,
    minimise_sums,
    truth_table,
)

FOLDS = 5
VERDICTS = {FIRES: "fires", RESTS: "rests", FREE: "don't care"}  # the majority of a cell, in words
LEAST = 5  # images on which the unit fires, and does not fire, in the training part


@dataclass(frozen=True)
class Score:
    """How well a rule says when a unit fires. precision is NaN where the rule never says so."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 where the rule never says so or is never right."""
        return 2 / (1 / self.precision + 1 / self.recall) if self.precision > 0 and self.recall > 0 else 0.0


@dataclass(frozen=True)
class Account:
    """inputs: numbers of the input channels A, B, C, ... of the table. cuts: above which activation each counts as on.

    bits: what each alone says about the firing, on the training images. firing: the value above which the unit fires.
    table: the training images, counted. score: of the expression on the held-out images, beside that of the best
    `single` input (its number; negated where `inverse`) and of `always` firing. images, fires: held-out images, and
    the share of them on which the unit fires. sums: the shortest product of sums, with its own score. circuits: those
    that equal the table as the expression does. other_sets: those over other inputs.
    """

    inputs: tuple[int, ...]
    cuts: tuple[float, ...]
    bits: tuple[float, ...]
    firing: float
    table: TruthTable
    expression: Expression
    score: Score
    single: int
    inverse: bool
    single_score: Score
    always: Score
    images: int
    fires: float
    sums: ProductOfSums | None = None
    sums_score: Score | None = None
    circuits: Circuits | None = None
    other_sets: InputSets | None = None


def split_images(
    labels: Labels, count: int, held_out: float, seed: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    """Training and held-out images, both stratified by class, from at most `count` images."""
    rows = stratify(labels, min(count, len(labels)), seed)
    test = stratify(labels[rows], max(1, round(held_out * len(rows))), seed + 1)
    return np.delete(rows, test), rows[test]


def account(
    value: Float64[np.ndarray, " n"],
    strength: Float32[np.ndarray, "n candidates"],
    candidates: Int64[np.ndarray, " candidates"],
    train: int,
    *,
    firing_rate: float,
    rectified: bool,
    most: int,
    seed: int,
) -> Account | str:
    """The account of a unit, or one sentence why there is none.

    value: the unit's pre-activation on each image, training images first, `train` of them. strength: of the candidate
    inputs. firing_rate, rectified: what counts as firing, see `firing_value`. most: inputs at most.
    """
    finite = np.isfinite(value) & np.isfinite(strength).all(1)
    split_at = int(finite[:train].sum())
    value, strength = value[finite], strength[finite].astype(np.float64)
    limit = firing_value(value[:split_at], firing_rate, rectified)
    fires = value > limit
    fit, test_fires = fires[:split_at], fires[split_at:]
    if min(fit.sum(), (~fit).sum()) < LEAST or not test_fires.any():
        return (
            f"it fires on {int(fit.sum())} of {len(fit)} training and {int(test_fires.sum())} of {len(test_fires)} "
            "held-out images, too few (or too many) for a Boolean account"
        )
    x, y = strength[:split_at], strength[split_at:]
    cuts, bits = _cuts(x, fit)
    on, on_test = x > cuts, y > cuts
    single, inverse = _single(on, fit)
    alone = score(on_test[:, single] != inverse, test_fires)
    chosen = choose_decisive(on, fit, _number(x, fit, most, seed))
    cuts[chosen] = refine_cuts(x[:, chosen], cuts[chosen], fit)
    table = truth_table((x > cuts)[:, chosen], fit)
    expression, sums = minimise(table.majority), minimise_sums(table.majority)
    test_bits = y[:, chosen] > cuts[chosen]
    right = score(expression.cells[cells_of(test_bits)], test_fires)
    return Account(
        inputs=tuple(int(candidates[k]) for k in chosen),
        cuts=tuple(float(cuts[k]) for k in chosen),
        bits=tuple(float(bits[k]) for k in chosen),
        firing=limit,
        table=table,
        expression=expression,
        score=right,
        single=int(candidates[single]),
        inverse=inverse,
        single_score=alone,
        always=score(np.ones(len(test_fires), bool), test_fires),
        images=len(test_fires),
        fires=float(test_fires.mean()),
        sums=sums,
        sums_score=score(sums.cells[cells_of(test_bits)], test_fires),
        circuits=count_circuits(table.majority, truth_table(test_bits, test_fires), seed=seed),
        other_sets=other_inputs(on, fit, on_test, test_fires, chosen, right.f1, seed),
    )


def firing_value(value: Float64[np.ndarray, " n"], firing_rate: float, rectified: bool) -> float:
    """The pre-activation above which the unit counts as firing: that which a share `firing_rate` of the images exceed.

    Behind an activation function it is never below 0. A rate of 0 takes 0 itself.
    """
    if not len(value) or firing_rate == 0:
        return 0.0
    limit = float(np.quantile(value, 1 - firing_rate))
    return max(0.0, limit) if rectified else limit


def score(predicted: Bool[np.ndarray, " n"], fires: Bool[np.ndarray, " n"]) -> Score:
    """Precision and recall of a rule."""
    hits = float((predicted & fires).sum())
    return Score(
        hits / predicted.sum() if predicted.any() else float("nan"), hits / fires.sum() if fires.any() else float("nan")
    )


def _cuts(
    x: Float64[np.ndarray, "n candidates"], fires: Bool[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " candidates"], Float64[np.ndarray, " candidates"]]:
    thresholds = [threshold(column, fires) for column in x.T]
    return np.array([c for c, _ in thresholds]), np.array([b for _, b in thresholds])


def _number(x: Float64[np.ndarray, "n candidates"], fires: Bool[np.ndarray, " n"], most: int, seed: int) -> int:
    """How many inputs: the fewest whose F1 on left-out training images is within a standard error of the best.

    Source: Breiman, Friedman, Olshen, Stone, "Classification and Regression Trees" (1984), Section 3.4.3.
    """
    draw = np.random.default_rng(seed)
    fold = np.empty(len(fires), np.int64)
    for state in (True, False):  # as many firing images in each fold
        rows = draw.permutation(np.flatnonzero(fires == state))
        fold[rows] = np.arange(len(rows)) % FOLDS
    quality = np.zeros((most, FOLDS))
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        cuts, _ = _cuts(x[inside], fires[inside])
        order = choose_decisive(x[inside] > cuts, fires[inside], most)
        for number in range(1, most + 1):
            chosen = order[:number]
            refined = refine_cuts(x[inside][:, chosen], cuts[chosen], fires[inside])
            table = truth_table(x[inside][:, chosen] > refined, fires[inside])
            predicted = minimise(table.majority).cells[cells_of(x[outside][:, chosen] > refined)]
            quality[number - 1, k] = score(predicted, fires[outside]).f1
    mean = quality.mean(1)
    error = quality[mean.argmax()].std(ddof=1) / np.sqrt(FOLDS)
    return int(np.flatnonzero(mean >= mean.max() - error)[0]) + 1


def _single(bits: Bool[np.ndarray, "n candidates"], fires: Bool[np.ndarray, " n"]) -> tuple[int, bool]:
    """The one input that alone says best when the unit fires, and whether by being off."""
    ranked = [
        (score(bits[:, k] != inverse, fires).f1, -k, inverse) for k in range(bits.shape[1]) for inverse in (False, True)
    ]
    _, k, inverse = max(ranked, key=lambda row: row[:2])
    return -k, inverse


def letters(count: int) -> Sequence[str]:
    """A, B, C, ..."""
    return [chr(ord("A") + k) for k in range(count)]


def gray_code(bits: int) -> list[int]:
    """All numbers of so many bits, each differing from the next (and the last from the first) in one bit."""
    return [n ^ (n >> 1) for n in range(2**bits)]


def karnaugh_map(inputs: int) -> Int64[np.ndarray, "rows columns"]:
    """The cells of a truth table as a Karnaugh map: the first half of the inputs down, the others across."""
    down = inputs // 2
    across = inputs - down
    return np.array([[row << across | column for column in gray_code(across)] for row in gray_code(down)])


ROUNDS = 3  # of moving every cut once
GRID = 32  # cuts tried for an input
DEVIANCE = 3.84  # 95 % of a chi-squared variable of one degree of freedom


def threshold(strength: Float64[np.ndarray, " n"], fires: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """(threshold, bits): where to cut an input's strength so that it says most about the unit's firing.

    The cut lies half-way between two neighbouring values: of those that cannot be told from the best one by the
    likelihood ratio, in the widest gap, where a new image is least likely to fall on the wrong side. bits: the mutual
    information of `strength > threshold` and `fires`, 0 to 1. A strength that never varies gives (that value, 0).
    """
    order = np.argsort(strength, kind="stable")
    values, hits = strength[order], fires[order].astype(np.int64)
    edges = np.flatnonzero(values[1:] > values[:-1])
    n = len(values)
    if not len(edges):
        return (float(values[0]) if n else 0.0), 0.0
    below_fired = np.cumsum(hits)[edges].astype(float)
    below = edges + 1.0
    fired = float(hits.sum())
    counts = np.stack([below_fired, below - below_fired, fired - below_fired, n - below - fired + below_fired])
    joint = counts / n
    bits = _entropy(np.array([fired / n, 1 - fired / n])) + _entropy(np.stack([below / n, 1 - below / n]))
    bits = bits - _entropy(joint)
    near = bits >= bits.max() - _slack(n)
    best = int(np.where(near, values[edges + 1] - values[edges], -1).argmax())
    low, high = values[edges[best]], values[edges[best] + 1]
    middle = float(low + (high - low) / 2)
    return (middle if low < middle < high else float(low)), float(max(0.0, bits[best]))


def choose_decisive(bits: Bool[np.ndarray, "n inputs"], fires: Bool[np.ndarray, " n"], most: int) -> list[int]:
    """The inputs, at most `most`, that together say most about the unit's firing: one after another, the best next one.

    Ends when no input adds any information. Source: Brown, Pocock, Zhao, Lujan, "Conditional likelihood maximisation",
    JMLR 13 (2012), without its approximations.
    """
    chosen: list[int] = []
    cells = np.zeros(len(fires), np.int64)
    information = _information(cells, fires, 1)
    while len(chosen) < min(most, bits.shape[1]):
        size = 2 ** (len(chosen) + 1)
        gains = [
            -1.0 if k in chosen else _information(2 * cells + bits[:, k], fires, size) for k in range(bits.shape[1])
        ]
        best = int(np.argmax(gains))
        if gains[best] <= information + 1e-9:
            break
        information = gains[best]
        chosen.append(best)
        cells = cells_of(bits[:, chosen])
    return chosen


def refine_cuts(
    strength: Float64[np.ndarray, "n inputs"], cuts: Float64[np.ndarray, " inputs"], fires: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " inputs"]:
    """The cuts moved, one input after another, to where the inputs together say most about the unit's firing.

    A cut that was best for one input alone may stand for another cause. A cut stays where it cannot be told from the
    best one by the likelihood ratio; else it goes into the widest gap of those that cannot.
    """
    cuts = cuts.copy()
    n, inputs = strength.shape
    slack = _slack(n)
    for _ in range(ROUNDS):
        before = cuts.copy()
        for k in range(inputs):
            bits = strength > cuts
            bits[:, k] = False
            others, weight, column = cells_of(bits), 1 << (inputs - 1 - k), strength[:, k]
            middles, gaps = _middles(column)
            tried = np.array(
                [_information(others + weight * (column > c), fires, 2**inputs) for c in [cuts[k], *middles]]
            )
            if tried[0] < tried.max() - slack:
                cuts[k] = middles[np.where(tried[1:] >= tried.max() - slack, gaps, -1).argmax()]
        if (cuts == before).all():
            break
    return cuts


def _middles(
    strength: Float64[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, " cuts"], Float64[np.ndarray, " cuts"]]:
    """Half-way points between neighbouring values, and the gaps: evenly spread ones, and those in the widest gaps."""
    values = np.unique(strength)
    gaps = np.diff(values)
    chosen = np.union1d(spread_indices(len(gaps), GRID), np.argsort(-gaps, kind="stable")[: GRID // 4]).astype(np.int64)
    return (values[:-1] + gaps / 2)[chosen], gaps[chosen]


def _slack(n: int) -> float:
    """Bits of information that n images cannot tell apart."""
    return DEVIANCE / (2 * max(1, n) * math.log(2))


def _information(cells: Int64[np.ndarray, " n"], fires: Bool[np.ndarray, " n"], size: int) -> float:
    """The mutual information of cell and firing, in bits."""
    n = max(1, len(cells))
    joint = np.stack([np.bincount(cells[fires == state], minlength=size) / n for state in (True, False)])
    return float(_entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint.ravel()))


def _entropy(shares: Float64[np.ndarray, "states *rest"]) -> Float64[np.ndarray, "*rest"]:
    """In bits, over the first axis; 0 log 0 is 0."""
    safe = np.where(shares > 0, shares, 1.0)
    return -(safe * np.log2(safe)).sum(0)
