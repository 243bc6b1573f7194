"""The figures of the study `correspondence`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import UInt8

from netopsy.charts import curve, heatmap
from netopsy.charts.passages import Entry, passages
from netopsy.engine.observe.observe import observe
from netopsy.network.network import Network
from netopsy.pictures.mosaic import below, beside, caption, grid, resize
from netopsy.pictures.patches import patches
from netopsy.result import Figure, Image, Panel, Passage, Texts
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.studies.correspondence.counting import NETWORKS, SHUFFLED, UNTRAINED, Comparison, Names
from netopsy.tallies.top_images import TopImages, TopImagesResult

SOURCE = "Li et al., Convergent Learning, ICLR 2016"
WORDS = {NETWORKS: "", SHUFFLED: ", shuffled", UNTRAINED: ", untrained"}
_CURVES = 12  # sorted correlations of at most so many layers


def figures(tables: Mapping[str, pl.DataFrame], comparison: Comparison) -> dict[str, Figure]:
    """By depth: matchings and likeness; the sorted correlations; errors by units used; the map."""
    charts = {}
    layers = tables["layers"].with_columns(layer=pair_name(tables["layers"]))
    if len(comparison.compared) > 1:
        charts["matching"] = _matching(layers)
        charts["likeness"] = _likeness(layers)
    charts["units"] = _sorted_curves(tables["units"].with_columns(layer=pair_name(tables["units"])), comparison)
    charts["regression"] = _regression(tables["regression"].with_columns(layer=pair_name(tables["regression"])))
    if comparison.map is not None:
        charts["map"] = _map(comparison, NETWORKS)
        if comparison.map["cka_untrained"].is_not_null().any():
            charts["map untrained"] = _map(comparison, UNTRAINED)
    return charts


def pair_name(frame: pl.DataFrame) -> pl.Series:
    """`conv1`, or `conv1 - features.0` where the names differ."""
    a, b = frame["layer_a"].to_list(), frame["layer_b"].to_list()
    return pl.Series([x if x == y else f"{x} - {y}" for x, y in zip(a, b, strict=True)], dtype=pl.String)


def _long(layers: pl.DataFrame, names: Mapping[str, str], controls: tuple[str, ...]) -> pl.DataFrame:
    """layer, value, what: one row a figure and layer; the controls only of the names in `controls`."""
    parts = []
    for of, suffix in WORDS.items():
        rows = layers.filter(pl.col("of") == of)
        for column, word in names.items():
            if rows.height and (of == NETWORKS or column in controls):
                parts.append(rows.select("layer", value=pl.col(column), what=pl.lit(word + suffix)))
    return pl.concat(parts).filter(pl.col("value").is_not_null())


def _control_names(names: Mapping[str, str], controls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(names[column] + suffix for suffix in WORDS.values() if suffix for column in controls)


def _matching(layers: pl.DataFrame) -> Figure:
    names = {"semi": "best partner", "bipartite": "one-to-one partner", "within": "best in its own layer"}
    return curve(
        _long(layers, names, ("semi", "bipartite")),
        "layer",
        "value",
        color="what",
        controls=_control_names(names, ("semi", "bipartite")),
        x_title="layer, in order of execution",
        y_title="mean correlation",
        color_title="of a unit with its",
        zero=True,
        title="How well units find a partner",
        reading="Shuffled: the images of one network in another order. Untrained: the other network with new weights.",
        source=f"{SOURCE}, Section 3",
    )


def _likeness(layers: pl.DataFrame) -> Figure:
    names = {"cka": "linear CKA", "svcca": "SVCCA", "pwcca": "PWCCA", "procrustes": "Procrustes"}
    return curve(
        _long(layers, names, ("cka", "pwcca")),
        "layer",
        "value",
        color="what",
        controls=_control_names(names, ("cka", "pwcca")),
        x_title="layer, in order of execution",
        y_title="likeness, 0 to 1",
        color_title="index",
        zero=True,
        title="How alike the layers are as a whole",
        reading="1 is the same up to a rotation (CKA, Procrustes) or up to an invertible map (SVCCA, PWCCA).",
        source="Kornblith et al., 2019; Raghu et al., 2017; Morcos et al., 2018; Ding et al., 2021",
    )


_BETWEEN = "the two networks"
_MEANS = (f"all layers{WORDS[SHUFFLED]}", f"all layers{WORDS[UNTRAINED]}")


def _multiples(parts: Mapping[str, pl.DataFrame], controls: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One small chart a layer, the same controls in each: the parts with the columns `layer` and `of`."""
    return pl.concat(
        frame.with_columns(layer=pl.lit(layer), of=pl.lit(of))
        for layer, part in parts.items()
        for of, frame in ({_BETWEEN: part} | dict(controls)).items()
    )


def _sorted_curves(units: pl.DataFrame, comparison: Comparison) -> Figure:
    names = units["layer"].unique(maintain_order=True).to_list()
    parts = {}
    for name in names[:: max(1, -(-len(names) // _CURVES))]:
        rows = units.filter((pl.col("layer") == name) & ~pl.col("dead") & pl.col("best_correlation").is_not_null())
        parts[name] = _falling(rows["best_correlation"])
    controls = {}
    for of, words in zip((SHUFFLED, UNTRAINED), _MEANS, strict=True):
        correlations = [
            c.semi.correlation[c.semi.matched] for rows in comparison.compared.values() for c in rows if c.of == of
        ]
        if correlations:
            controls[words] = _falling(pl.Series(np.concatenate(correlations)))
    return curve(
        _multiples(parts, controls),
        "share",
        "correlation",
        color="of",
        controls=tuple(controls),
        facet="layer",
        percent_x=True,
        x_title="share of units",
        y_title="correlation",
        title="Units by how well the other network has them",
        reading="Each layer's live units by their correlation with the best partner, the best first. A line that stays "
        "high: most units have a counterpart. One that falls at once: a few do.",
        source=f"{SOURCE}, Figure 4",
    )


_POINTS = 100  # of a falling line


def _falling(correlations: pl.Series) -> pl.DataFrame:
    """The correlations from the highest down, over the share of the units that reach them; at most 100, evenly."""
    ordered = correlations.sort(descending=True)
    share = pl.int_range(1, len(ordered) + 1, eager=True) / max(1, len(ordered))
    return pl.DataFrame({"share": share, "correlation": ordered})[spread_indices(len(ordered), _POINTS)]


def _regression(regression: pl.DataFrame) -> Figure:
    names = regression["layer"].unique(maintain_order=True).to_list()
    used = pl.col("used") > 0
    pairs = regression.filter((pl.col("of") == NETWORKS) & used)
    parts = {
        name: pairs.filter(pl.col("layer") == name).select("used", "error").sort("used")
        for name in names[:: max(1, -(-len(names) // _CURVES))]
    }
    controls = {}
    for of, words in zip((SHUFFLED, UNTRAINED), _MEANS, strict=True):
        means = regression.filter(pl.col("of") == of).group_by("decay", maintain_order=True)
        mean = means.agg(pl.col("used", "error").mean()).filter(used).sort("used")
        if mean.height:
            controls[words] = mean.select("used", "error")
    return curve(
        _multiples(parts, controls),
        "used",
        "error",
        color="of",
        controls=tuple(controls),
        facet="layer",
        log_x=True,
        zero=True,
        x_title="units used, mean",
        y_title="squared error",
        title="How many units it takes to predict one",
        reading="Squared error of a unit of variance 1, over the units of the other network used. Right end: least "
        "squares with all of them. To the left the L1 penalty grows. 1 is no prediction at all.",
        source=f"{SOURCE}, Section 4",
    )


def _map(comparison: Comparison, of: str) -> Figure:
    assert comparison.map is not None
    shuffled = float(comparison.map["cka_shuffled"].mean())  # type: ignore[arg-type]
    return heatmap(
        comparison.map,
        "layer_b",
        "layer_a",
        "cka" if of == NETWORKS else "cka_untrained",
        domain=(0.0, 1.0),
        x_title=f"layer of {comparison.networks[1]}{WORDS[of]}",
        y_title=f"layer of {comparison.networks[0]}",
        value_title="linear CKA",
        title=f"Every layer with every other{WORDS[of]}",
        reading="Bright where two layers span the same. A bright diagonal: both networks go the same way. With the "
        f"images shuffled the mean is {shuffled:.2f}.",
        source="Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019",
    )


_LAYERS = 4  # pairs of layers that are drawn, spread over the depth
_SIDE = 40  # screen pixels of a patch, about
_LINE = 190  # the gray between a unit's patches

Chosen = dict[Names, list[tuple[int, int, float]]]
UnitTiles = dict[str, dict[int, UInt8[np.ndarray, "top height width 3"]]]


def picture(
    comparison: Comparison, network: Network, other: Network, samples: Samples, top: int, drawn: int
) -> Image | None:
    """For some layers the pairs of the one-to-one matching that correlate most and least; None where there are none."""
    chosen = _choose(comparison, drawn)
    if not chosen:
        return None
    sides = [_tiles(net, samples, _units(chosen, k), top) for k, net in enumerate((network, other))]
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
        f"One block per pair: left the {top} {samples.noun}s that excite the unit of {comparison.networks[0]} most, "
        f"right those of its one-to-one partner in {comparison.networks[1]}, with their correlation. "
        + (
            "A patch is the unit's receptive field; gray is beyond the image."
            if samples.kind == "image"
            else "What is shaded or framed is where the unit looks."
        ),
        "after Li et al., Convergent Learning, ICLR 2016, Figure 3",
        alt=f"Patches of matched units of {comparison.networks[0]} and {comparison.networks[1]}",
        panels=tuple(_panel(sides, a, b, row) for (a, b), rows in chosen.items() for row in rows),
    )


def texts(
    comparison: Comparison, network: Network, other: Network, samples: Samples, top: int, drawn: int
) -> Texts | None:
    """`picture` of samples that are read: texts and rows."""
    sides, chosen = [], _choose(comparison, drawn)
    if not chosen:
        return None
    for k, net in enumerate((network, other)):
        sides.append(_passages(net, samples, _units(chosen, k), top))
    groups = {}
    for names, rows in chosen.items():
        for *units, correlation in rows:
            for k, unit in enumerate(units):
                words = f"{names[0]}:{units[0]} - {names[1]}:{units[1]} ({correlation:.2f}), {comparison.networks[k]}"
                groups[words] = sides[k][names[k], unit]
    return Texts(
        groups,
        "Pairs of units and what excites them",
        f"Two blocks per pair, a unit of {comparison.networks[0]} and its one-to-one partner in "
        f"{comparison.networks[1]} with their correlation, the best pairs of a layer first: the "
        f"{samples.noun}s that excite each most.",
        "after Li et al., Convergent Learning, ICLR 2016, Figure 3",
    )


def _choose(comparison: Comparison, drawn: int) -> Chosen:
    """For some layers the best pairs, then the worst."""
    names = [list(comparison.compared)[i] for i in spread_indices(len(comparison.compared), _LAYERS)]
    return {pair: rows for pair in names if (rows := _choose_pairs(comparison, pair, drawn))}


def _units(chosen: Chosen, k: int) -> list[tuple[str, int]]:
    """The units of network `k`, as (node, channel)."""
    return [(names[k], row[:2][k]) for names, rows in chosen.items() for row in rows]


def _choose_pairs(comparison: Comparison, names: Names, drawn: int) -> list[tuple[int, int, float]]:
    """(unit of A, unit of B, correlation): the best pairs, then the worst."""
    matching = comparison.compared[names][0].bipartite
    ranked = matching.ranked.tolist()
    units = ranked[:drawn] + ranked[max(drawn, len(ranked) - drawn) :]
    return [(unit, int(matching.partner[unit]), float(matching.correlation[unit])) for unit in units]


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


def _panel(sides: Sequence[UnitTiles], a: str, b: str, row: tuple[int, int, float]) -> Panel:
    """The patches of the unit of the first network, then those of its partner."""
    tiles = (*sides[0][a][row[0]], *sides[1][b][row[1]])
    name = f"{a}:{row[0]} - {b}:{row[1]}"
    return Panel(name, tiles, f"{name} (correlation {row[2]:.2f})", columns=len(tiles) // 2)


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
