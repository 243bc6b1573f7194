"""The best and the worst pairs of units, with the strongest stimuli of both side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from netopsy.engine.observe.observe import observe
from netopsy.network.network import Network
from netopsy.pictures.mosaic import below, beside, caption, grid, resize
from netopsy.pictures.patches import patches
from netopsy.result import Image
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.studies.correspondence.counting import Comparison, Names
from netopsy.tallies.top_images import TopImages

_LAYERS = 4  # pairs of layers that are drawn, spread over the depth
_SIDE = 40  # screen pixels of a patch, about
_LINE = 190  # the gray between a unit's patches

Chosen = dict[Names, list[tuple[int, int, float]]]
UnitTiles = dict[str, dict[int, UInt8[np.ndarray, "top height width 3"]]]


def picture(
    comparison: Comparison, network: Network, other: Network, samples: Samples, top: int, drawn: int
) -> Image | None:
    """For some layers the pairs of the one-to-one matching that correlate most and least; None where there are none."""
    names = [list(comparison.compared)[i] for i in spread_indices(len(comparison.compared), _LAYERS)]
    chosen = {pair: rows for pair in names if (rows := _choose_pairs(comparison, pair, drawn))}
    if not chosen:
        return None
    sides = [
        _tiles(net, samples, [(pair[k], row[:2][k]) for pair, rows in chosen.items() for row in rows], top)
        for k, net in enumerate((network, other))
    ]
    parts = []
    for (a, b), rows in chosen.items():
        half = len(rows) // 2 if len(rows) > drawn else len(rows)
        for word, some_pairs in (("best", rows[:half]), ("worst", rows[half:])):
            if some_pairs:
                parts += [
                    caption(f"{a if a == b else f'{a} - {b}'}: {word} pairs"),
                    beside([_pair(sides, a, b, row) for row in some_pairs], gap=14),
                ]
    return Image(
        below(parts, gap=6),
        "Pairs of units and what excites them",
        f"One block a pair: left the {top} images that excite the unit of {comparison.networks[0]} most, right those "
        "of "
        f"its one-to-one partner in {comparison.networks[1]}, with their correlation. A patch is the unit's receptive "
        "field; gray is beyond the image.",
        "after Li et al., Convergent Learning, ICLR 2016, Figure 3",
        alt=f"Patches of matched units of {comparison.networks[0]} and {comparison.networks[1]}",
    )


def _choose_pairs(comparison: Comparison, names: Names, drawn: int) -> list[tuple[int, int, float]]:
    """(unit of A, unit of B, correlation): the best pairs, then the worst."""
    matching = comparison.compared[names][0].bipartite
    ranked = matching.ranked.tolist()
    units = ranked[:drawn] + ranked[max(drawn, len(ranked) - drawn) :]
    return [(unit, int(matching.partner[unit]), float(matching.correlation[unit])) for unit in units]


def _tiles(network: Network, samples: Samples, units: Sequence[tuple[str, int]], top: int) -> UnitTiles:
    """The patches of each unit's strongest images, by node and channel."""
    channels_of: dict[str, list[int]] = {}
    for node, channel in dict.fromkeys(units):
        channels_of.setdefault(node, []).append(channel)
    tallies = {node: (node, TopImages(top, network.nodes[node].channel_axis)) for node in channels_of}
    best = observe(network, samples, tallies)
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
