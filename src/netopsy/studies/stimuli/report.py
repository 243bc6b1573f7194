"""The charts and sentences of the study `stimuli`, and Zeiler and Fergus' Figure 2 for a few nodes."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from jaxtyping import UInt8

from netopsy import charts
from netopsy.pictures.mosaic import below, beside, caption, grid, resize
from netopsy.result import Figure, Image, Texts
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.studies.stimuli.drawing import NodePictures, UnitPassages
from netopsy.wording import ends, listing, plural

_BINS = 10


def figures(units: pl.DataFrame, random: float, top: int) -> dict[str, Figure]:
    """Class make-up by layer: the mean, and how it spreads over the units."""
    live = units.drop_nulls("share")
    if live.is_empty():
        return {}
    means = live.group_by("node", maintain_order=True).agg(pl.col("share", "selectivity").mean())
    charts_by_name = {
        "share": charts.bars(
            means,
            "node",
            "share",
            title=f"Share of the commonest class among a unit's {top} strongest images",
            reading="Each bar is the mean over the layer's units, from the input (top) to the output; the dashed line "
            "is what images drawn at random would give.",
            source="after Zeiler and Fergus, Figure 2",
            percent=True,
            reference=random,
            reference_label="chance",
            category_title="layer",
            value_title="share of the commonest class",
        ),
        "spread": charts.heatmap(
            _bin_units(live).with_columns(pl.col("left").alias("share of the commonest class, from")),
            "share of the commonest class, from",
            "node",
            "share",
            title="How the units of each layer spread over that share",
            reading="Each row is a layer: a bright cell holds many of its units; units at the far right answer to one "
            "class only.",
            percent=True,
            percent_x=True,
            y_title="layer",
            value_title="share of units",
            labels=False,
        ),
    }
    selective = means.drop_nulls("selectivity")
    if selective.height:
        charts_by_name["selectivity"] = charts.bars(
            selective,
            "node",
            "selectivity",
            title="Class-selectivity index",
            reading="Mean over the layer's units of (a - b) / (a + b): a is a unit's mean on its best class, b its "
            "mean over the others; 0 answers to all classes alike, 1 to one only.",
            source="Morcos et al. 2018, Section 2.3",
            category_title="layer",
            value_title="class-selectivity index",
        )
    return charts_by_name


def _bin_units(units: pl.DataFrame) -> pl.DataFrame:
    """Units counted by share: node, left, share (of the node's units)."""
    bin_ = (pl.col("share") * _BINS).floor().clip(0, _BINS - 1).cast(pl.Int64).alias("bin")
    counts = units.group_by("node", bin_, maintain_order=True).agg(pl.len().alias("units"))
    every = units.select(pl.col("node").unique(maintain_order=True)).join(
        pl.DataFrame({"bin": range(_BINS)}), how="cross", maintain_order="left_right"
    )
    full = every.join(counts, on=["node", "bin"], how="left", maintain_order="left")
    part = pl.col("units").fill_null(0)
    return full.select("node", (pl.col("bin") / _BINS).alias("left"), (part / part.sum().over("node")).alias("share"))


_LINE = 190  # the gray between a unit's patches: some are white
_SIDE = 48  # screen pixels of a patch, about
_GAP = 14  # between units


def figure(pictures: list[NodePictures], top: int) -> Image:
    """Each unit's patches, and beside them what comes back from it. top: patches a unit."""
    parts = []
    for node_pictures in pictures:
        blocks = [_block(tiles, top) for tiles in node_pictures.examples]
        words = f"{node_pictures.strongest.node}: units {', '.join(map(str, node_pictures.channels[: len(blocks)]))}"
        parts += [caption(words), grid(np.stack(blocks), min(3, len(blocks)), _GAP)[_GAP:-_GAP, _GAP:-_GAP]]
    names = ", ".join(node_pictures.strongest.node for node_pictures in pictures)
    back = any(node_pictures.rule for node_pictures in pictures)
    sides = "left the patches of the images that excite it most, right what is projected back from it to each"
    return Image(
        below(parts, gap=6),
        "The strongest stimuli of some units",
        f"One block a unit: {sides if back else 'the patches of the images that excite it most'}; strongest first, "
        "row by row. A patch is the unit's receptive field; gray is beyond the image, and in a reconstruction zero.",
        "after Zeiler and Fergus, Figure 2",
        alt=f"Patches and reconstructions of units of {names}",
    )


_SHOWN = 3  # units of a layer whose passages stand in the report

READING = (
    "One card a unit: the texts that excite it most, strongest first. The framed token is the stimulus; the warmer a "
    "token, the larger the unit's value there as a share of its strongest, cool shades are below zero.",
    "One card a unit: the rows that excite it most, strongest first, by column.",
)


def lines(drawn: dict[str, list[UnitPassages]], pictured: list[str], noun: str) -> Texts:
    """The passages of some units of some layers."""
    chosen = {node: [drawn[node][i] for i in spread_indices(len(drawn[node]), _SHOWN)] for node in pictured}
    return Texts(
        {f"{node}:{unit.channel}": unit.passages for node, units in chosen.items() for unit in units},
        "The strongest stimuli of some units",
        READING[noun == "row"].replace("One card a unit", "One block a unit"),
        "after Zeiler and Fergus, Figure 2",
    )


def _block(tiles: UInt8[np.ndarray, "tile height width 3"], top: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """One unit: its patches in a square, and its reconstructions in another to the right."""
    height, width = tiles.shape[1:3]
    zoom = max(1, round(_SIDE / max(height, width)))
    large = np.stack([resize(tile, (height * zoom, width * zoom), smooth=False) for tile in tiles])
    columns = math.ceil(math.sqrt(top))
    halves = [large[first : first + top] for first in range(0, len(large), top)]
    return beside([grid(half, min(columns, top), 1, _LINE) for half in halves], gap=4)


def findings(
    units: pl.DataFrame, random: float, samples: Samples, top: int, left: list[str], rules: dict[str, str]
) -> list[str]:
    """Plain sentences, the most important first.

    units: the table. random: the share that chance gives. left: nodes that could not be treated. rules: rule by node.
    """
    live = units.filter(pl.col("stimuli") > 0)
    sparse = samples.classified and not samples.multilabel and len(samples) < 2 * len(samples.classes)
    sentences = []
    if live.height and samples.classified and not sparse:
        sentences += [*_depth(live, random, top), _single(live, random, top), *_index(live)]
    sentences.append(_dead(units, plural(len(samples), samples.noun)))
    if len(samples) < 10 * top:
        sentences.append(
            f"With {plural(len(samples), samples.noun)} in all, the {top} strongest of a unit are many of them: give "
            "more."
        )
    if sparse:
        sentences.append(
            f"With {plural(len(samples), samples.noun)} of {plural(len(samples.classes), 'class', 'classes')} most "
            "have one or none, so the class "
            "make-up says little."
        )
    for rule, why in (("guided", "no rectifier that `masked` knows"), ("gradient", "no activation"), ("", "no rule")):
        nodes = [node for node, used in rules.items() if used == rule]
        if nodes and rule:
            sentences.append(f"Reconstructed by the rule `{rule}`, since {why} lies before them: {listing(nodes)}.")
        elif nodes:
            sentences.append(f"No rule brings the units of {listing(nodes)} back to the image.")
    if left:
        sentences.append(f"Left out, since their rows are not one {samples.noun} each: {listing(left)}.")
    return sentences


def _depth(live: pl.DataFrame, random: float, top: int) -> list[str]:
    means = live.drop_nulls("share").group_by("node", maintain_order=True).agg(pl.col("share").mean())
    if means.height < 3:
        return []
    third = means.height // 3
    early, late = _mean(means.head(third), "share"), _mean(means.tail(third), "share")
    word = "grow more selective with depth" if late > early + 0.02 else "do not grow more selective with depth"
    first, last = ends(third, "layer")
    return [
        f"Units {word}: among the {top} strongest images of a unit {early:.0%} are of the commonest class in "
        f"{first} and {late:.0%} in {last}; images drawn at random give {random:.0%}."
    ]


def _single(live: pl.DataFrame, random: float, top: int) -> str:
    pure = live.filter((pl.col("share") == 1) & (pl.col("stimuli") == top))
    if not pure.height or random == 1:
        best = live.sort("share", descending=True, nulls_last=True, maintain_order=True).head(3)
        return f"No unit's {top} strongest images are all of one class; nearest come {_names(best)}."
    order = pure.sort("selectivity", descending=True, nulls_last=True, maintain_order=True).head(3)
    return (
        f"{pure.height:,} of {live.height:,} units have all their {top} strongest images in one class, "
        f"for instance {_names(order)}."
    )


def _index(live: pl.DataFrame) -> list[str]:
    means = live.drop_nulls("selectivity").group_by("node", maintain_order=True).agg(pl.col("selectivity").mean())
    if means.height < 2:
        return []
    low, high = means.sort("selectivity", maintain_order=True)[[0, -1]].iter_rows(named=True)
    return [
        f"The class-selectivity index is lowest in {low['node']} ({low['selectivity']:.2f} on average) and highest in "
        f"{high['node']} ({high['selectivity']:.2f})."
    ]


def _dead(units: pl.DataFrame, samples: str) -> str:
    dead = units.filter(pl.col("stimuli") == 0)
    if not dead.height:
        return f"Each of {plural(units.height, 'unit')} answers to at least one of the {samples}."
    by_node = dead.group_by("node", maintain_order=True).len()
    where = listing([f"{row['node']} ({row['len']})" for row in by_node.iter_rows(named=True)])
    return (
        f"{dead.height:,} of {plural(units.height, 'unit')} {'answers' if dead.height == 1 else 'answer'} to none of "
        f"the {samples}: {where}."
    )


def _names(units: pl.DataFrame) -> str:
    return listing(
        [f"{row['node']}:{row['channel']} ({row['class']}, {row['share']:.0%})" for row in units.iter_rows(named=True)]
    )


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].mean())  # type: ignore[arg-type]
