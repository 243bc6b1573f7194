"""The charts of the study `stimuli`."""

from __future__ import annotations

import polars as pl

from netopsy import charts
from netopsy.result import Figure

_BINS = 10


def figures(units: pl.DataFrame, random: float, top: int) -> dict[str, Figure]:
    """Class make-up by layer: the mean, and how it spreads over the units."""
    live = units.drop_nulls("share")
    if live.is_empty():
        return {}
    means = live.group_by("node", maintain_order=True).agg(pl.col("share", "selectivity").mean())
    found = {
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
            _binned(live).with_columns(pl.col("left").alias("share of the commonest class, from")),
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
    known = means.drop_nulls("selectivity")
    if known.height:
        found["selectivity"] = charts.bars(
            known,
            "node",
            "selectivity",
            title="Class-selectivity index",
            reading="Mean over the layer's units of (a - b) / (a + b): a is a unit's mean on its best class, b its "
            "mean over the others; 0 answers to all classes alike, 1 to one only.",
            source="Morcos et al. 2018, Section 2.3",
            category_title="layer",
            value_title="class-selectivity index",
        )
    return found


def _binned(units: pl.DataFrame) -> pl.DataFrame:
    """Units counted by share: node, left, share (of the node's units)."""
    bin_ = (pl.col("share") * _BINS).floor().clip(0, _BINS - 1).cast(pl.Int64).alias("bin")
    counted = units.group_by("node", bin_, maintain_order=True).agg(pl.len().alias("units"))
    every = units.select(pl.col("node").unique(maintain_order=True)).join(
        pl.DataFrame({"bin": range(_BINS)}), how="cross", maintain_order="left_right"
    )
    full = every.join(counted, on=["node", "bin"], how="left", maintain_order="left")
    part = pl.col("units").fill_null(0)
    return full.select("node", (pl.col("bin") / _BINS).alias("left"), (part / part.sum().over("node")).alias("share"))
