"""The best and the worst matches of two networks, by what excites the units and by the units' filters.

By both matchings: the one-to-one assignment, and the best partner of each unit, which several may share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from netopsy.charts.passages import Entry, passages
from netopsy.engine.observe.observe import observe
from netopsy.network.layers import CONVOLUTION_KINDS, filters_of
from netopsy.network.network import Network
from netopsy.pictures.mosaic import below, beside, caption, grid, map_pictures, resize
from netopsy.pictures.patches import patches
from netopsy.result import Image, Panel, Passage, Texts
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.stats.matching import Matching
from netopsy.studies.correspondence.counting import Comparison, LayerComparison, Names
from netopsy.tallies.top_images import TopImages, TopImagesResult

_LAYERS = 4  # pairs of layers that are drawn, spread over the depth
_SIDE = 40  # screen pixels of a patch or a filter, about
_LINE = 190  # the gray between a unit's patches
_FILTERS = 6  # best and worst pairs whose filters are drawn, at least
_SOURCE = "after Li et al., Convergent Learning, ICLR 2016, Figure 3"

PairRow = tuple[int, int, float]  # unit of A, unit of B, their correlation
UnitTiles = dict[str, dict[int, UInt8[np.ndarray, "top height width 3"]]]

_KINDS = {"pairs": "one-to-one partner", "pairs best partner": "best partner"}
"""By the name of the picture: whom a unit is shown with."""

BestAndWorst = tuple[list[PairRow], list[PairRow]]
Chosen = dict[Names, BestAndWorst]


def _matching(compared: LayerComparison, kind: str) -> Matching:
    return compared.bipartite if kind == "pairs" else compared.semi


def pair_pictures(
    comparison: Comparison, network: Network, other: Network, samples: Samples, top: int, drawn: int
) -> dict[str, Image]:
    """For some layers the pairs that correlate most and least, by either matching, with what excites them."""
    chosen = {kind: _choose(comparison, kind, drawn) for kind in _KINDS}
    sides = [_tiles(net, samples, _units(chosen, k), top) for k, net in enumerate((network, other))]
    return {
        kind: Image(
            below(_blocks(rows_of, sides), gap=6),
            f"Units with their {partner}, and what excites them",
            f"One block per pair: left the {top} {samples.noun}s that excite the unit of {comparison.networks[0]} "
            f"most, right those of its {partner} in {comparison.networks[1]}, with their correlation. "
            + (
                "A patch is the unit's receptive field; gray is beyond the image."
                if samples.kind == "image"
                else "What is shaded or framed is where the unit looks."
            ),
            _SOURCE,
            alt=f"Patches of units of {comparison.networks[0]} and of their {partner} in {comparison.networks[1]}",
            panels=tuple(
                _panel((*sides[0][a][row[0]], *sides[1][b][row[1]]), a, b, row)
                for (a, b), (best, worst) in rows_of.items()
                for row in best + worst
            ),
        )
        for (kind, partner), rows_of in zip(_KINDS.items(), chosen.values(), strict=True)
        if rows_of
    }


def pair_texts(
    comparison: Comparison, network: Network, other: Network, samples: Samples, top: int, drawn: int
) -> dict[str, Texts]:
    """`pair_pictures` of samples that are read: texts and rows."""
    chosen = {kind: _choose(comparison, kind, drawn) for kind in _KINDS}
    sides = [_passages(net, samples, _units(chosen, k), top) for k, net in enumerate((network, other))]
    shown = {}
    for (kind, partner), rows_of in zip(_KINDS.items(), chosen.values(), strict=True):
        groups = {}
        for names, (best, worst) in rows_of.items():
            for *units, correlation in best + worst:
                for k, unit in enumerate(units):
                    pair = f"{names[0]}:{units[0]} - {names[1]}:{units[1]} ({correlation:.2f})"
                    groups[f"{pair}, {comparison.networks[k]}"] = sides[k][names[k], int(unit)]
        if groups:
            shown[kind] = Texts(
                groups,
                f"Units with their {partner}, and what excites them",
                f"Two blocks per pair, a unit of {comparison.networks[0]} and its {partner} in "
                f"{comparison.networks[1]} with their correlation, the best pairs of a layer first: the "
                f"{samples.noun}s that excite each most.",
                _SOURCE,
            )
    return shown


def filter_pictures(comparison: Comparison, network: Network, other: Network, drawn: int) -> dict[str, Image]:
    """The best and worst matches of the layers that see the image, as pictures of their weights; else nothing."""
    parts: list[UInt8[np.ndarray, "height width 3"]] = []
    panels: dict[tuple[Any, ...], Panel] = {}
    for (a, b), compared in comparison.compared.items():
        weights = (filters_on_image(network, a), filters_on_image(other, b))
        if any(maps is None for maps in weights):
            continue
        sides = [map_pictures(maps, net.preprocessing) for maps, net in zip(weights, (network, other), strict=True)]  # type: ignore[arg-type]
        for kind, partner in _KINDS.items():
            best, worst = _best_and_worst(_matching(compared[0], kind), max(drawn, _FILTERS))
            for word, some in (("best", best), ("worst", worst)):
                if some:
                    title = f"{a if a == b else f'{a} - {b}'}: {word} matches with the {partner}"
                    parts += [caption(title), beside([_filter_pair(sides, row) for row in some], gap=12)]
                    panels |= {(a, b, *row): _panel((sides[0][row[0]], sides[1][row[1]]), a, b, row) for row in some}
    if not parts:
        return {}
    picture = Image(
        below(parts, gap=6),
        "The filters of matched units",
        f"One block per pair: left the weights of the unit of {comparison.networks[0]} on the image, right those of "
        f"its partner in {comparison.networks[1]}, with the correlation of the two units. Mid-gray is 0, and each "
        "filter is scaled to its own largest weight.",
        _SOURCE,
        alt=f"Filters of units of {comparison.networks[0]} next to those of their partners in {comparison.networks[1]}",
        panels=tuple(panels.values()),
    )
    return {"filters": picture}


def filters_on_image(network: Network, name: str) -> Tensor | None:
    """The weights of the units of node `name` as maps (unit, channel, height, width); None unless they see the image.

    Of a convolution its kernels, of a linear map whose inputs are the pixels as many pixels a unit.
    """
    node = network.nodes[name]
    taken = network.signature.inputs[0]
    layer = next((layer for layer in network.layers if layer.name == node.layer), None)
    if layer is None or taken.kind != "image" or len(taken.shape) != 3 or not _first(network, layer.nodes[0]):
        return None
    weight = filters_of(layer, network.tensors[layer.weight].detach().float().cpu())
    if len(weight) != node.full_shape[node.channel_axis]:
        return None
    if layer.kind in CONVOLUTION_KINDS and weight.ndim == 4 and weight.shape[1] == taken.shape[0]:
        return weight
    return (
        weight.reshape(-1, *taken.shape)
        if layer.kind == "linear" and weight[0].numel() == math.prod(taken.shape)
        else None
    )


def _first(network: Network, name: str) -> bool:
    """Whether no other layer stands between the input and the node."""
    stack, visited = list(network.nodes[name].inputs), set()
    while stack:
        node = stack.pop()
        if node in visited or not node.from_input:
            continue
        if node.weights:
            return False
        visited.add(node)
        stack += node.inputs
    return True


def _panel(tiles: Sequence[UInt8[np.ndarray, "height width 3"]], a: str, b: str, row: PairRow) -> Panel:
    """The pictures of the unit of the first network, then those of its partner."""
    name = f"{a}:{row[0]} - {b}:{row[1]}"
    return Panel(name, tuple(tiles), f"{name} (correlation {row[2]:.2f})", columns=len(tiles) // 2)


def _filter_pair(sides: Sequence[UInt8[np.ndarray, "n height width 3"]], row: PairRow) -> Any:
    zooms = [max(1, round(1.2 * _SIDE / max(side.shape[1:3]))) for side in sides]
    squares = [sides[k][row[k]].repeat(zooms[k], 0).repeat(zooms[k], 1) for k in (0, 1)]  # type: ignore[index]
    return below([caption(f"{row[0]} - {row[1]}: {row[2]:.2f}"), beside(squares, gap=4)], gap=1)


def _blocks(rows_of: Chosen, sides: Sequence[UnitTiles]) -> list[UInt8[np.ndarray, "height width 3"]]:
    parts = []
    for (a, b), both in rows_of.items():
        for word, some_pairs in zip(("best", "worst"), both, strict=True):
            if some_pairs:
                title = f"{a if a == b else f'{a} - {b}'}: {word} pairs"
                parts += [caption(title), beside([_pair(sides, a, b, row) for row in some_pairs], gap=14)]
    return parts


def _choose(comparison: Comparison, kind: str, drawn: int) -> Chosen:
    """For some layers the best pairs, then the worst."""
    names = [list(comparison.compared)[i] for i in spread_indices(len(comparison.compared), _LAYERS)]
    chosen = {pair: _best_and_worst(_matching(comparison.compared[pair][0], kind), drawn) for pair in names}
    return {pair: parts for pair, parts in chosen.items() if parts[0]}


def _best_and_worst(matching: Matching, drawn: int) -> BestAndWorst:
    """The pairs that correlate most, and as many that correlate least; of few pairs half and half."""
    ranked = matching.ranked.tolist()
    count = min(drawn, -(-len(ranked) // 2))
    parts = ranked[:count], ranked[max(count, len(ranked) - count) :]
    best, worst = (
        [(unit, int(matching.partner[unit]), float(matching.correlation[unit])) for unit in part] for part in parts
    )
    return best, worst


def _units(chosen: dict[str, Chosen], k: int) -> list[tuple[str, int]]:
    """The units of network `k`, as (node, channel)."""
    return [
        (names[k], row[:2][k])
        for rows_of in chosen.values()
        for names, (best, worst) in rows_of.items()
        for row in best + worst
    ]


def _strongest(
    network: Network, samples: Samples, units: Sequence[tuple[str, int]], top: int
) -> tuple[dict[str, list[int]], dict[str, TopImagesResult]]:
    """The channels of each node, and what excites its channels most."""
    channels_of: dict[str, list[int]] = {}
    for node, channel in dict.fromkeys(units):
        channels_of.setdefault(node, []).append(channel)
    tallies = {node: (node, TopImages(top, network.nodes[node].channel_axis)) for node in channels_of}
    return channels_of, observe(network, samples, tallies)


def _passages(
    network: Network, samples: Samples, units: Sequence[tuple[str, int]], top: int
) -> dict[tuple[str, int], tuple[Passage, ...]]:
    """The strongest samples of each unit as text, by node and channel."""
    channels_of, best = _strongest(network, samples, units, top)
    entries = {
        (node, channel): [
            Entry(channel, image, place, f"{value:.3g}")
            for value, image, place in zip(
                *(part[channel].tolist() for part in (best[node].values, best[node].images, best[node].places)),
                strict=True,
            )
            if image >= 0
        ]
        for node, node_channels in channels_of.items()
        for channel in node_channels
    }
    by_node = {node: [e for c in channels for e in entries[node, c]] for node, channels in channels_of.items()}
    drawn = {node: iter(rows) for node, rows in passages(network, samples, by_node).items()}
    return {(node, c): tuple(next(drawn[node]) for _ in rows) for (node, c), rows in entries.items()}


def _tiles(network: Network, samples: Samples, units: Sequence[tuple[str, int]], top: int) -> UnitTiles:
    """The patches of each unit's strongest images, by node and channel."""
    channels_of, best = _strongest(network, samples, units, top)
    stimuli = {
        node: (best[node].images[node_channels].flatten(), best[node].places[node_channels].flatten())
        for node, node_channels in channels_of.items()
    }
    cut = patches(network, samples, stimuli, tile=_SIDE)
    return {
        node: dict(zip(node_channels, cut[node].reshape(len(node_channels), -1, *cut[node].shape[1:]), strict=True))
        for node, node_channels in channels_of.items()
    }


def _pair(
    sides: Sequence[UnitTiles], a: str, b: str, row: tuple[int, int, float]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Both units' patches, a caption above."""
    halves = beside([_block(sides[0][a][row[0]]), _block(sides[1][b][row[1]])], gap=4)
    return below([caption(f"{row[0]} - {row[1]}: {row[2]:.2f}"), halves], gap=1)


def _block(tiles: UInt8[np.ndarray, "top height width 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
    height, width = tiles.shape[1:3]
    zoom = max(1, round(_SIDE / max(height, width)))
    large = np.stack([resize(tile, (height * zoom, width * zoom), smooth=False) for tile in tiles])
    return grid(large, math.ceil(math.sqrt(len(large))), 1, _LINE)
