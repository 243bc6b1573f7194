"""From the predicted path to the file: a few points measured with all layers together, and the smallest that holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from netopsy.studies.prescribe.allocation.curve import Exchange
from netopsy.studies.prescribe.allocation.knapsack import Allocation

LADDER = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Points of the path that are measured first, as multiples of the divergence that the budget is predicted to buy."""
ROUNDS = 3
BETWEEN = 3
CLOSE = 0.02
"""Two points of the path whose sizes differ by less, as a share, are not parted further."""


@dataclass(frozen=True)
class Trial:
    """A point of the path, measured: its place, its allocation, its row of `effects`, its drop evened out."""

    place: int
    allocation: Allocation
    scores: dict[str, Any]
    drop: float = float("nan")


Measure = Callable[[Sequence[Allocation]], list[dict[str, Any]]]


def settle(path: Sequence[Allocation], predicted: Exchange, budget: float, measure: Measure) -> list[Trial]:
    """The trials by falling size; the last whose `drop` is within `budget` (a share) and all before it is the choice.

    path: by rising loss, from `allocations`. predicted: from loss to drop. measure: the rows of `effects` of some
    allocations. Each trial's `drop` is its `estimate` pooled with those of its neighbours, so that it rises along the
    path: one lucky point does not decide.
    """
    aim = max(predicted.divergence(budget), 1e-9)
    trials: list[Trial] = []
    wanted = [_place(path, aim * step) for step in LADDER]
    for _ in range(1 + ROUNDS):
        new = sorted(set(wanted) - {trial.place for trial in trials})
        if not new:
            break
        rows = measure([path[place] for place in new])
        trials += [Trial(place, path[place], row) for place, row in zip(new, rows, strict=True)]
        trials = _evened(sorted(trials, key=lambda trial: trial.place))
        wanted = _next(path, trials, budget)
    return trials


def choice(trials: Sequence[Trial], budget: float) -> Trial | None:
    """The smallest trial within the budget, or None."""
    within = [trial for trial in trials if trial.drop <= budget + 1e-12]
    return within[-1] if within else None


def _next(path: Sequence[Allocation], trials: Sequence[Trial], budget: float) -> list[int]:
    """Places to measure next: beyond the trials where all or none are within the budget, else between two."""
    best = choice(trials, budget)
    if best is None:
        first = trials[0].place
        return [0, first // 4, first // 2] if first else []
    beyond = [trial for trial in trials if trial.place > best.place]
    if not beyond:
        last, end = best.place, len(path) - 1
        return [last + (end - last + 3) // 4, last + (end - last + 1) // 2] if last < end else []
    low, high = best.place, beyond[0].place
    if path[low].bytes - path[high].bytes <= CLOSE * path[high].bytes:
        return []
    sizes = np.linspace(path[low].bytes, path[high].bytes, BETWEEN + 2)[1:-1]
    inner = range(low + 1, high)
    return [min(inner, key=lambda i: abs(path[i].bytes - size)) for size in sizes] if inner else []


def _evened(trials: Sequence[Trial]) -> list[Trial]:
    finite = [trial.scores["estimate"] if np.isfinite(trial.scores["divergence"]) else 1.0 for trial in trials]
    curve = Exchange([float(trial.place + 1) for trial in trials], finite)
    return [replace(trial, drop=curve.drop(trial.place + 1)) for trial in trials]


def _place(path: Sequence[Allocation], loss: float) -> int:
    """The last place of the path whose loss is at most `loss`."""
    within = [i for i, allocation in enumerate(path) if allocation.loss <= loss]
    return within[-1] if within else 0
