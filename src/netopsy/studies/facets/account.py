"""The Boolean account of one unit: when it fires, in terms of whether its few most decisive inputs do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from netopsy.samples.labels import Labels, stratify
from netopsy.studies.facets.inputs import choose_decisive, refine_cuts, threshold
from netopsy.studies.facets.minimise import (
    FIRES,
    FREE,
    RESTS,
    Expression,
    TruthTable,
    cells_of,
    minimise,
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
    the share of them on which the unit fires.
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
    single, inverse = _single(x > cuts, fit)
    alone = score((y[:, single] > cuts[single]) != inverse, test_fires)
    chosen = choose_decisive(x > cuts, fit, _number(x, fit, most, seed))
    cuts[chosen] = refine_cuts(x[:, chosen], cuts[chosen], fit)
    table = truth_table((x > cuts)[:, chosen], fit)
    expression = minimise(table.majority)
    return Account(
        inputs=tuple(int(candidates[k]) for k in chosen),
        cuts=tuple(float(cuts[k]) for k in chosen),
        bits=tuple(float(bits[k]) for k in chosen),
        firing=limit,
        table=table,
        expression=expression,
        score=score(expression.cells[cells_of((y > cuts)[:, chosen])], test_fires),
        single=int(candidates[single]),
        inverse=inverse,
        single_score=alone,
        always=score(np.ones(len(test_fires), bool), test_fires),
        images=len(test_fires),
        fires=float(test_fires.mean()),
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
