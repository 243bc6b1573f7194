"""Which columns lie side by side, and which products of them give all pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.units import channels, places
from netopsy.studies.correspondence.comoments.comoments import CoMoments, CrossProduct, Side, Span
from netopsy.studies.correspondence.comoments.pair import Grid, Pair, common_grid

_LARGEST = 8 * 2**30  # bytes that all sums may take

Names = tuple[str, str]
Array = Float64[np.ndarray, "p q"]


@dataclass(frozen=True)
class Columns:
    """Nodes of one network on one grid, in order of execution, and where each lies in the `side`."""

    side: Side
    spans: dict[str, Span]


@dataclass(frozen=True)
class Meeting:
    """The products of the columns of the first network with those of another, on one grid.

    between: each covers all pairs of some neighbouring layers. shuffled: the same with the image before; or none.
    """

    left: Columns
    right: Columns
    between: tuple[CrossProduct, ...]
    shuffled: tuple[CrossProduct, ...]


class GridLevel:
    """Everything on one grid: the columns of each network, its products within layers, the meetings."""

    def __init__(
        self, grid: Grid, networks: Sequence[Network], pairs: dict[int, list[Names]], images: int, shuffled: bool
    ) -> None:
        device = networks[0].device
        self.grid = grid
        self.columns: dict[int, Columns] = {}
        for k, network in enumerate(networks):
            if names := _names(k, pairs):
                spans = _spans(network, names)
                width = max(stop for _, stop in spans.values())
                self.columns[k] = Columns(Side(width, math.prod(grid), images, device), spans)
        self.within = {
            (k, name): CrossProduct(columns.side, span, columns.side, span)
            for k, columns in self.columns.items()
            for name, span in columns.spans.items()
        }
        self.meetings = {k: self._meeting(k, found, shuffled) for k, found in pairs.items()}
        products = [*self.within.values()]
        for meeting in self.meetings.values():
            products += [*meeting.between, *meeting.shuffled]
        self.moments = CoMoments([columns.side for columns in self.columns.values()], products)

    def _meeting(self, k: int, pairs: list[Names], shuffled: bool) -> Meeting:
        left, right = self.columns[0], self.columns[k]
        blocks = _blocks(left.spans, right.spans, pairs)
        return Meeting(
            left,
            right,
            tuple(CrossProduct(left.side, rows, right.side, columns) for rows, columns in blocks),
            tuple(
                CrossProduct(left.side, rows, right.side, columns, before=True) for rows, columns in blocks * shuffled
            ),
        )

    def finish(self, images: int) -> dict[int, dict[Names, Pair]]:
        """The pairs of each meeting."""
        n = self.moments.n
        means = {k: _numpy(c.side.shift.double() + c.side.sums / n) for k, c in self.columns.items()}
        within = {key: _numpy(product.central(n)) for key, product in self.within.items()}
        finished: dict[int, dict[Names, Pair]] = {}
        for k, meeting in self.meetings.items():
            finished[k] = {}
            ab, control = (_parts(meeting, products, n) for products in (meeting.between, meeting.shuffled))
            for (a, b), products in ab.items():
                mean_a, mean_b = means[0][slice(*meeting.left.spans[a])], means[k][slice(*meeting.right.spans[b])]
                sums = within[0, a], within[k, b], products, control.get((a, b))
                finished[k][a, b] = Pair(a, b, n, images, self.grid, mean_a, mean_b, *sums)
        return finished


def arrange_columns(
    networks: Sequence[Network], pairs: dict[int, list[Names]], images: int, shuffled: bool
) -> list[GridLevel]:
    """The levels, from the finest grid to the coarsest.

    networks: the first is compared with each of the others, or with itself. pairs: of nodes, by the other's position.
    images: the most that come at once.
    """
    _check_size(networks, pairs, shuffled)
    grids = _by_grid(networks, pairs)
    order = sorted(grids, key=lambda grid: (-math.prod(grid), -len(grid), grid))
    return [GridLevel(grid, networks, grids[grid], images, shuffled) for grid in order]


def values_per_image(networks: Sequence[Network], pairs: dict[int, list[Names]]) -> int:
    """Values of the largest side for one image."""
    largest = 1
    for grid, meetings in _by_grid(networks, pairs).items():
        for k, network in enumerate(networks):
            names = _names(k, meetings)
            width = sum(channels(network.nodes[name]) for name in names)
            largest = max(largest, width * math.prod(grid))
    return largest


def _by_grid(networks: Sequence[Network], pairs: dict[int, list[Names]]) -> dict[Grid, dict[int, list[Names]]]:
    by_grid: dict[Grid, dict[int, list[Names]]] = {}
    for k, found in pairs.items():
        for a, b in found:
            grid = common_grid(places(networks[0].nodes[a]), places(networks[k].nodes[b]))
            by_grid.setdefault(grid, {}).setdefault(k, []).append((a, b))
    return by_grid


def _names(k: int, pairs: dict[int, list[Names]]) -> set[str]:
    """The nodes of network `k` among the pairs of one grid."""
    names = {a for found in pairs.values() for a, _ in found} if k == 0 else set()
    return names | {b for _, b in pairs.get(k, [])}


def _check_size(networks: Sequence[Network], pairs: dict[int, list[Names]], shuffled: bool) -> None:
    """Raise SettingsError where the sums of all pairs would not fit."""
    elements = sum(
        channels(networks[0].nodes[a]) * channels(networks[k].nodes[b]) for k, found in pairs.items() for a, b in found
    )
    needed = 20 * elements * (1 + shuffled)  # float64, float32 and the float64 that is handed over
    if needed > _LARGEST:
        raise SettingsError(
            f"the products of {sum(map(len, pairs.values())):,} pairs of layers take {needed / 2**30:.0f} GiB, more "
            f"than the {_LARGEST / 2**30:.0f} allowed; name fewer pairs in layers."
        )


def _spans(network: Network, names: Collection[str]) -> dict[str, Span]:
    spans, start = {}, 0
    for name, node in network.nodes.items():
        if name in names:
            spans[name] = (start, start + channels(node))
            start = spans[name][1]
    return spans


def _blocks(left: dict[str, Span], right: dict[str, Span], pairs: Sequence[Names]) -> list[tuple[Span, Span]]:
    """Blocks of columns that cover all pairs and no other: neighbours with the same partners go together."""
    partners: dict[str, set[str]] = {}
    for a, b in pairs:
        partners.setdefault(a, set()).add(b)
    blocks = []
    for rows, names in _runs(left, {a: frozenset(found) for a, found in partners.items()}):
        blocks += [(rows, columns) for columns, _ in _runs(right, dict.fromkeys(names, names))]
    return blocks


def _runs(spans: dict[str, Span], keys: Mapping[str, frozenset[str]]) -> list[tuple[Span, frozenset[str]]]:
    """Neighbouring spans with the same key as one, and that key; those without a key are left out."""
    runs = []
    for key, group in itertools.groupby(spans, keys.get):
        names = list(group)
        if key is not None:
            runs.append(((spans[names[0]][0], spans[names[-1]][1]), key))
    return runs


def _parts(meeting: Meeting, products: Sequence[CrossProduct], n: int) -> dict[Names, Array]:
    """The sums about the means of each pair of layers that the products cover."""
    found = {}
    for product in products:
        sums, top, left = _numpy(product.central(n)), product.rows.start, product.columns.start
        for a, rows in meeting.left.spans.items():
            if not (top <= rows[0] and rows[1] <= product.rows.stop):
                continue
            for b, columns in meeting.right.spans.items():
                if left <= columns[0] and columns[1] <= product.columns.stop:
                    part = sums[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
                    found[a, b] = part.copy()
    return found


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
