"""From measured activations to truth values, to the few inputs that decide, and to a Karnaugh map of them.

A Karnaugh map is a truth table folded so that neighbours differ in one input: Karnaugh, "The map method for synthesis
of combinational logic circuits", Transactions AIEE 72 (1953).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float64, Int64

from netopsy.stats.describe import spread_indices
from netopsy.studies.facets.minimise import cells_of


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
