"""From measured activations to truth values: thresholds, and the few inputs that decide."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from netopsy.engine.boolean.table import cells_of


def threshold(strength: Float64[np.ndarray, " n"], fires: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """(threshold, bits): where to cut an input's strength so that it says most about the unit's firing.

    The cut lies half-way between two neighbouring values. bits: the mutual information of `strength > threshold` and
    `fires`, 0 to 1. A strength that never varies gives (that value, 0).
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
    best = int(bits.argmax())
    low, high = values[edges[best]], values[edges[best] + 1]
    middle = float(low + (high - low) / 2)
    return (middle if low < middle < high else float(low)), float(max(0.0, bits[best]))


def decisive(bits: Bool[np.ndarray, "n inputs"], fires: Bool[np.ndarray, " n"], most: int) -> list[int]:
    """The inputs, at most `most`, that together say most about the unit's firing: one after another, the best next one.

    Ends when no input adds any information. Source: Brown, Pocock, Zhao, Lujan, "Conditional likelihood maximisation",
    JMLR 13 (2012), without its approximations.
    """
    chosen: list[int] = []
    cells = np.zeros(len(fires), np.int64)
    known = _information(cells, fires, 1)
    while len(chosen) < min(most, bits.shape[1]):
        size = 2 ** (len(chosen) + 1)
        gains = [
            -1.0 if k in chosen else _information(2 * cells + bits[:, k], fires, size) for k in range(bits.shape[1])
        ]
        best = int(np.argmax(gains))
        if gains[best] <= known + 1e-9:
            break
        known = gains[best]
        chosen.append(best)
        cells = cells_of(bits[:, chosen])
    return chosen


def _information(cells: Int64[np.ndarray, " n"], fires: Bool[np.ndarray, " n"], size: int) -> float:
    """The mutual information of cell and firing, in bits."""
    n = max(1, len(cells))
    joint = np.stack([np.bincount(cells[fires == state], minlength=size) / n for state in (True, False)])
    return float(_entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint.ravel()))


def _entropy(shares: Float64[np.ndarray, "states *rest"]) -> Float64[np.ndarray, "*rest"]:
    """In bits, over the first axis; 0 log 0 is 0."""
    safe = np.where(shares > 0, shares, 1.0)
    return -(safe * np.log2(safe)).sum(0)
