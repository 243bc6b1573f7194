"""Which columns lie side by side, and which products of them give all pairs: a plan in plain data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from netopsy.engine.observe.tally import places_differ
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import channels, places
from netopsy.studies.correspondence.comoments.pair import Grid, common_grid

_LARGEST = 8 * 2**30  # bytes that all sums may take

Names = tuple[str, str]
Span = tuple[int, int]


@dataclass(frozen=True)
class GridLevel:
    """What is counted on one grid.

    spans: for each network, by its number, the nodes in order of execution and the columns of each.
    blocks: for each network that the first one is compared with, the columns of the first and of that one whose
    products cover all pairs of layers. shuffled: whether they are counted with the image before, too.
    padded: whether samples differ in length, so that a row stands for itself and not for a place of an image.
    """

    grid: Grid
    spans: dict[int, dict[str, Span]]
    blocks: dict[int, list[tuple[Span, Span]]]
    shuffled: bool
    padded: bool = False

    @property
    def places(self) -> int:
        """Rows of one image; of padded samples the most."""
        return math.prod(self.grid)

    def width(self, k: int) -> int:
        """Columns of network `k`."""
        return max(stop for _, stop in self.spans[k].values())


def arrange_columns(
    networks: Sequence[Network], pairs: dict[int, list[Names]], shuffled: bool
) -> tuple[GridLevel, ...]:
    """The levels, from the finest grid to the coarsest.

    networks: the first is compared with each of the others, or with itself. pairs: of nodes, by the other's number.
    """
    _check_size(networks, pairs, shuffled)
    levels, padded = [], any_padded(networks)
    for grid, meetings in _by_grid(networks, pairs).items():
        spans = {k: _spans(network, names) for k, network in enumerate(networks) if (names := _names(k, meetings))}
        blocks = {k: _blocks(spans[0], spans[k], compared) for k, compared in meetings.items()}
        levels.append(GridLevel(grid, spans, blocks, shuffled, padded))
    return tuple(sorted(levels, key=lambda level: (-level.places, -len(level.grid), level.grid)))


def any_padded(networks: Sequence[Network]) -> bool:
    """Whether one of the networks takes samples of any length, padded."""
    return any(network.signature.length is not None for network in networks)


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
    aligned = networks[0].signature.length if places_differ(networks) else None
    for k, compared in pairs.items():
        for a, b in compared:
            nodes = networks[0].nodes[a], networks[k].nodes[b]
            one, other = (_aligned_places(node, aligned) for node in nodes)
            by_length = any(node.length_axes for node in nodes)
            grid = () if by_length and one != other else common_grid(one, other)
            by_grid.setdefault(grid, {}).setdefault(k, []).append((a, b))
    return by_grid


def _aligned_places(node: Node, length: int | None) -> Grid:
    """The node's places, with `length` of them along the samples."""
    if length is None:
        return places(node)
    axes = [axis for axis in range(1, len(node.full_shape)) if axis != node.channel_axis % len(node.full_shape)]
    return tuple(length if axis in node.length_axes else node.full_shape[axis] for axis in axes)


def _names(k: int, pairs: dict[int, list[Names]]) -> set[str]:
    """The nodes of network `k` among the pairs of one grid."""
    names = {a for compared in pairs.values() for a, _ in compared} if k == 0 else set()
    return names | {b for _, b in pairs.get(k, [])}


def _check_size(networks: Sequence[Network], pairs: dict[int, list[Names]], shuffled: bool) -> None:
    """Raise SettingsError where the sums of all pairs would not fit."""
    elements = sum(
        channels(networks[0].nodes[a]) * channels(networks[k].nodes[b])
        for k, compared in pairs.items()
        for a, b in compared
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
    for rows, names in _runs(left, {a: frozenset(names) for a, names in partners.items()}):
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
