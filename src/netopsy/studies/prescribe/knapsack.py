"""What may be lost; and the smallest total within a total loss, one choice a layer: a knapsack, along its Lagrangian.

Source: Shoham & Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36 (1988).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from netopsy.errors import SettingsError
from netopsy.studies.sweep_report import IMAGES, Measure

Point = tuple[float, float]


@dataclass(frozen=True)
class Budget:
    """What may be lost: `amount` of the score (by `drop`, a share) or of the loss (by `rise`, nats)."""

    amount: float
    by: Literal["drop", "rise"] = "drop"
    measure: Measure = IMAGES

    @property
    def unit(self) -> str:
        """Of what is lost: `top-1 accuracy`, `nats of loss`."""
        return self.measure.unit if self.by == "drop" else "loss"

    def words(self, value: float) -> str:
        """A loss: `0.50 points`, `0.0123 nats`."""
        return self.measure.amount(value) if self.by == "drop" else f"{value + 0.0:.4f} nats"

    def interval(self, row: dict[str, Any]) -> str:
        """The 95 % interval of what is lost."""
        if self.by == "drop":
            return self.measure.interval(row)
        return f"{row['rise_low'] + 0.0:.4f} to {row['rise_high'] + 0.0:.4f}"


def parse_budget(given: float | str) -> Budget:
    """The budget that a user gives: points of the score (0.5), a rise of perplexity (`1%`), or nats (`0.02 nats`).

    Errors: SettingsError for anything else.
    """
    text = str(given).strip().lower().removesuffix("of perplexity").strip()
    ending = next((unit for unit in ("%", "nats", "nat", "points", "point") if text.endswith(unit)), "")
    try:
        number = float(text.removesuffix(ending))
    except ValueError:
        number = math.nan
    most = 100.0 if ending in ("", "points", "point") else math.inf
    if isinstance(given, bool) or not (0 <= number <= most and math.isfinite(number)):
        raise SettingsError(
            f"budget {given!r} must be points of the score from 0 to 100 (0.5), a rise of perplexity (1%), or nats of "
            "loss (0.02 nats)."
        )
    if ending == "%":
        return Budget(math.log1p(number / 100), "rise")
    return Budget(number, "rise") if ending.startswith("nat") else Budget(number / 100)


@dataclass(frozen=True)
class Allocation:
    """One choice a layer: its position in the layer's list, by name; the totals of bytes and loss."""

    choice: dict[str, int]
    bytes: float
    loss: float


def lower_hull(points: Sequence[Point]) -> list[int]:
    """Positions of the corners of the lower convex hull of (x, y) points, by rising x; of equal x the lowest y."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    hull: list[int] = []
    for i in order:
        x, y = points[i]
        if hull and points[hull[-1]][0] == x:
            continue
        while len(hull) > 1 and _turns_down(points[hull[-2]], points[hull[-1]], (x, y)):
            hull.pop()
        hull.append(i)
    return hull


def frontier(points: Sequence[Point]) -> list[int]:
    """Positions of the (bytes, loss) choices worth taking, from the least loss to the fewest bytes: a convex chain."""
    hull = lower_hull(points)
    # beyond the least loss more bytes buy nothing
    least = min(range(len(hull)), key=lambda i: (points[hull[i]][1], points[hull[i]][0]))
    return hull[least::-1]


def allocations(layers: Mapping[str, Sequence[Point]]) -> list[Allocation]:
    """The path from the least loss to the fewest bytes, one layer's step at a time, by rising loss a byte saved.

    layers: (bytes, loss) of the choices of each layer. Every allocation on the path is optimal: none with as little
    loss has fewer bytes. Between two of them lie at most one layer's step.
    """
    chains = {name: frontier(points) for name, points in layers.items()}
    steps = []
    for name, chain in chains.items():
        points = layers[name]
        for place, (a, b) in enumerate(pairwise(chain)):
            saved = points[a][0] - points[b][0]
            steps.append(((points[b][1] - points[a][1]) / saved, place, name, b))
    choice = {name: chain[0] for name, chain in chains.items()}
    path = [_total(layers, choice)]
    for _, _, name, new_choice in sorted(steps, key=lambda step: step[:3]):
        choice = {**choice, name: new_choice}
        path.append(_total(layers, choice))
    return path


def _total(layers: Mapping[str, Sequence[Point]], choice: dict[str, int]) -> Allocation:
    points_taken = [layers[name][i] for name, i in choice.items()]
    return Allocation(choice, sum(size for size, _ in points_taken), sum(loss for _, loss in points_taken))


def _turns_down(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
