"""The charts and sentences of the study `stimuli`, and Zeiler and Fergus' Figure 2 for a few nodes."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from jaxtyping import UInt8

from netopsy import charts
from netopsy.pictures.mosaic import below, beside, caption, grid, resize
from netopsy.result import Figure, Finding, Image, Panel, Texts
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.studies.stimuli.drawing import NodePictures, UnitPassages
from netopsy.wording import ends, listing, number, percent, plural

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
        f"One block per unit: {sides if back else 'the patches of the images that excite it most'}; strongest first, "
        "row by row. A patch is the unit's receptive field; gray is beyond the image, and in a reconstruction zero.",
        "after Zeiler and Fergus, Figure 2",
        alt=f"Patches and reconstructions of units of {names}",
        panels=tuple(
            Panel(name := f"{drawn.strongest.node}:{channel}", tuple(tiles), name, columns=top)
            for drawn in pictures
            for channel, tiles in zip(drawn.channels.tolist(), drawn.examples, strict=False)  # the first are drawn
        ),
    )


_SHOWN = 3  # units of a layer whose passages stand in the report

READING = (
    "One card per unit: the texts that excite it most, strongest first. The framed token is the stimulus; the warmer a "
    "token, the larger the unit's value there as a share of its strongest, cool shades are below zero.",
    "One card per unit: the rows that excite it most, strongest first, by column.",
)


def lines(drawn: dict[str, list[UnitPassages]], pictured: list[str], noun: str) -> Texts:
    """The passages of some units of some layers."""
    chosen = {node: [drawn[node][i] for i in spread_indices(len(drawn[node]), _SHOWN)] for node in pictured}
    return Texts(
        {f"{node}:{unit.channel}": unit.passages for node, units in chosen.items() for unit in units},
        "The strongest stimuli of some units",
        READING[noun == "row"].replace("One card per unit", "One block per unit"),
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
) -> list[Finding]:
    """Plain sentences, the most important first.

    units: the table. random: the share that chance gives. left: nodes that could not be treated. rules: rule by node.
    """
    live = units.filter(pl.col("stimuli") > 0)
    few = plural(len(samples), samples.noun)
    sparse = samples.classified and not samples.multilabel and len(samples) < 2 * len(samples.classes)
    sentences = []
    if live.height and samples.classified and not sparse:
        sentences += [*_depth(live, random, top), _single(live, random, top), *_index(live)]
    sentences.append(_dead(units, few))
    if len(samples) < 10 * top:
        text = f"{few} are few to choose the {top} strongest of: give at least {10 * top}."
        sentences.append(Finding(text, 1.0))
    if sparse:
        text = (
            f"{few} of {plural(len(samples.classes), 'class', 'classes')} are too few to tell which classes units "
            "prefer: give several per class."
        )
        sentences.append(Finding(text, 1.0))
    for rule, why in (("guided", "no rectifier that `masked` knows"), ("gradient", "no activation"), ("", "no rule")):
        nodes = [node for node, used in rules.items() if used == rule]
        if nodes and rule:
            text = f"Stimuli of {listing(nodes)} are reconstructed by the rule `{rule}`: {why} lies before them."
            sentences.append(Finding(text, 0.0))
        elif nodes:
            sentences.append(Finding(f"No rule brings the units of {listing(nodes)} back to the image.", 0.0))
    if left:
        text = f"Left out, because their rows are not one {samples.noun} each: {listing(left)}."
        sentences.append(Finding(text, 0.0))
    return sentences


def _depth(live: pl.DataFrame, random: float, top: int) -> list[Finding]:
    means = live.drop_nulls("share").group_by("node", maintain_order=True).agg(pl.col("share").mean())
    if means.height < 3:
        return []
    third = means.height // 3
    early, late = _mean(means.head(third), "share"), _mean(means.tail(third), "share")
    first, last = ends(third, "layer")
    word = "grow more selective" if late > early + 0.02 else "do not grow more selective"
    text = (
        f"Units {word} with depth: of their {top} strongest images {percent(early)} are of one class in {first} and "
        f"{percent(late)} in {last} (random images: {percent(random)})."
    )
    return [Finding(text, min(5.0, abs(late - early) / 0.1))]


def _single(live: pl.DataFrame, random: float, top: int) -> Finding:
    pure = live.filter((pl.col("share") == 1) & (pl.col("stimuli") == top))
    if not pure.height or random == 1:
        best = live.filter(pl.col("share") == pl.col("share").max())
        text = (
            f"No unit responds to one class only; {_names(best.head(3))} {'is' if best.height == 1 else 'are'} nearest."
        )
        if best.height > 3:
            text = (
                f"No unit responds to one class only; the nearest {best.height:,} have "
                f"{percent(best['share'][0])} of their {top} strongest images in one."
            )
        return Finding(text, 0.5)
    order = pure.sort("selectivity", descending=True, nulls_last=True, maintain_order=True).head(3)
    text = (
        f"{pure.height:,} of {plural(live.height, 'unit')} {'has' if pure.height == 1 else 'have'} all {top} strongest "
        f"images in one class, for example {_names(order)}."
    )
    return Finding(text, min(5.0, 1 + 5 * pure.height / live.height))


def _index(live: pl.DataFrame) -> list[Finding]:
    means = live.drop_nulls("selectivity").group_by("node", maintain_order=True).agg(pl.col("selectivity").mean())
    if means.height < 2:
        return []
    low, high = means.sort("selectivity", maintain_order=True)[[0, -1]].iter_rows(named=True)
    text = (
        f"The class-selectivity index averages {number(high['selectivity'])} in {high['node']}, the most selective "
        f"layer, and {number(low['selectivity'])} in {low['node']}, the least."
    )
    return [Finding(text, min(5.0, (high["selectivity"] - low["selectivity"]) / 0.2))]


def _dead(units: pl.DataFrame, samples: str) -> Finding:
    dead = units.filter(pl.col("stimuli") == 0)
    if not dead.height:
        return Finding(f"Every one of {plural(units.height, 'unit')} responds to at least one of {samples}.", 0.3)
    by_node = dead.group_by("node", maintain_order=True).len()
    where = listing([f"{row['node']} ({row['len']})" for row in by_node.iter_rows(named=True)])
    verb = "responds" if dead.height == 1 else "respond"
    text = f"{dead.height:,} of {plural(units.height, 'unit')} {verb} to none of {samples}: {where}."
    return Finding(text, min(5.0, 1 + 10 * dead.height / units.height))


def _names(units: pl.DataFrame) -> str:
    rows = units.iter_rows(named=True)
    return listing([f"{row['node']}:{row['channel']} ({row['class']}, {percent(row['share'])})" for row in rows])


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].mean())  # type: ignore[arg-type]
