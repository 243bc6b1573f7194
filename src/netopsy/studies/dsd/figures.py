"""The figures of the study `dsd`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from netopsy.charts import curve, histogram
from netopsy.network.layers import Layer
from netopsy.result import Figure
from netopsy.stats.spread import spread

_LAYERS = 4  # whose weights are drawn; the table has all
_SOURCE = "Han et al., DSD, ICLR 2017"


def figures(tables: Mapping[str, pl.DataFrame], layers: Sequence[Layer]) -> dict[str, Figure]:
    """Accuracy over the epochs, and five panels of weights for some layers."""
    drawn = {"epochs": _epochs(tables["history"])}
    for index in spread(len(layers), _LAYERS):
        name = layers[index].name
        drawn[f"weights {name}"] = histogram(
            tables["histograms"].filter(pl.col("layer") == name),
            "left",
            "right",
            "count",
            facet="step",
            title=f"The weights of {name} at the five steps",
            reading="Pruning cuts the middle out; restored weights come back as zeros (the spike) and spread. Heights "
            "differ between panels; the outermost bins hold all beyond them. First seed.",
            source=_SOURCE,
            x_title="weight",
            y_title="weights",
            shared_x=True,
        )
    return drawn


def _epochs(history: pl.DataFrame) -> Figure:
    own = pl.col("validation_top1")
    both = history.filter(pl.col("branch") == "both")
    ways = [
        history.filter(pl.col("branch") == way).vstack(both.with_columns(pl.lit(way).alias("branch")))
        for way in ("dsd", "baseline")
    ]
    frame = (
        pl.concat(ways)
        .group_by("branch", "epoch", maintain_order=True)
        .agg(own.mean().alias("top1"), own.min().alias("low"), own.max().alias("high"))
        .sort("branch", "epoch", descending=[True, False])
    )
    return curve(
        frame,
        "epoch",
        "top1",
        color="branch",
        low="low",
        high="high",
        percent=True,
        x_title="epochs of training",
        y_title="top-1 accuracy",
        color_title="way",
        title="Accuracy on the images scored, epoch by epoch",
        reading="Lines are means over the seeds, bands run from the worst to the best of them.",
        source=_SOURCE,
    )
