"""The charts of the study `activations`."""

from __future__ import annotations

import numpy as np
import polars as pl

from netopsy import charts
from netopsy.result import Figure
from netopsy.stats.describe import spread_indices
from netopsy.wording import plural

_SOURCE = "Palmieri et al., Figure 6"
_FACETS = 24  # more small charts than this are drawn as one map
_FEW = 12  # layers whose values are drawn
_CELLS = 20


def draw_figures(tables: dict[str, pl.DataFrame], images: int, image: int, *, typical: bool) -> dict[str, Figure]:
    """All charts; `image` is the one looked at closely, `typical`: chosen as the typical one."""
    which = f"image {image}, the one nearest to the medians" if typical else f"image {image}"
    figures = {"shares": _shares(tables["activity"], images)}
    places = tables["image_places"].filter(pl.col("image") == image)
    if places.height:
        figures["places"] = _counts(
            places,
            "places",
            title=f"Features active at a place, on {which}",
            reading="The places of each layer by how many of its features are active there; further left is sparser.",
        )
    figures["channels"] = _counts(
        tables["histograms"].filter(pl.col("measure") == "channels on an image"),
        "images",
        title=f"Features active anywhere on an image, over {plural(images, 'image')}",
        reading="The images by how many of a layer's features are active at any place; the far right has all of them.",
    )
    values = tables["image_values"].filter(pl.col("image") == image)
    nodes = values["node"].unique(maintain_order=True).to_list()
    few = [nodes[i] for i in spread_indices(len(nodes), _FEW)]
    figures["values"] = charts.histogram(
        values.filter(pl.col("node").is_in(few)),
        "left",
        "right",
        "count",
        title=f"How large the active values are, on {which}",
        reading="Each chart counts a layer's active values; silent ones are left out.",
        facet="node",
        x_title="value",
        y_title="values",
    )
    if tables["patterns"].height:
        figures["patterns"] = _patterns(tables["patterns"])
    return figures


def _shares(activity: pl.DataFrame, images: int) -> Figure:
    return charts.curve(
        # the mean share of an image's values is that of the features at a place
        activity.filter(pl.col("measure") != "values on an image").with_columns(pl.col("measure").replace(_WORDS)),
        "node",
        "mean",
        color="measure",
        low="q05",
        high="q95",
        percent=True,
        zero=True,
        points=activity["node"].n_unique() <= 40,
        title="Share of features active, by depth",
        reading=f"Means over {plural(images, 'image')} in order of execution; bands hold 90 % of the images (or "
        "places). Falling to the right: the code grows sparse.",
        source=_SOURCE,
        x_title="activation",
        y_title="share active",
        color_title="active",
    )


_WORDS = {
    "channels on an image": "features anywhere on an image",
    "channels at a place": "features at one place",
}


def _counts(bins: pl.DataFrame, what: str, *, title: str, reading: str) -> Figure:
    """Bins of numbers of features, one small chart a layer; or a row each, where there are many."""
    if bins["node"].n_unique() <= _FACETS:
        return charts.histogram(
            bins,
            "left",
            "right",
            "count",
            title=title,
            reading=reading,
            source=_SOURCE,
            facet="node",
            x_title="features active",
            y_title=what,
        )
    return charts.heatmap(
        _rebin(bins),
        "share of features active, from",
        "node",
        "part",
        title=title,
        reading=f"{reading} Each row is a layer; its cells are its {what} by the share of its features.",
        source=_SOURCE,
        percent=True,
        percent_x=True,
        y_title="activation",
        value_title=f"share of {what}",
        labels=False,
    )


def _rebin(bins: pl.DataFrame) -> pl.DataFrame:
    """Bins of counts laid over cells of the share from 0 to 1; a bin across two cells is split by its overlap."""
    edges = np.linspace(0, 1, _CELLS + 1)
    frames = []
    for (name,), rows in bins.group_by("node", maintain_order=True):
        end = rows["right"].to_list()[-1]
        left, right = rows["left"].to_numpy() / end, rows["right"].to_numpy() / end
        overlap = np.minimum(right[:, None], edges[1:]) - np.maximum(left[:, None], edges[:-1])
        part = np.clip(overlap, 0, None).T / (right - left) @ rows["count"].to_numpy() / max(1, rows["count"].sum())
        frames.append(
            pl.DataFrame({"node": [name] * _CELLS, "share of features active, from": edges[:-1], "part": part})
        )
    return pl.concat(frames)


def _patterns(patterns: pl.DataFrame) -> Figure:
    lines = {
        "this activation alone": pl.col("patterns") / pl.col("images"),
        "all from the input up to it": pl.col("cumulative_patterns") / pl.col("images"),
        "features at one place": pl.col("place_patterns") / pl.col("places_drawn"),
    }
    long = pl.concat(
        [patterns.select("node", share.alias("share"), pl.lit(name).alias("of")) for name, share in lines.items()]
    ).filter(pl.col("share").is_finite())
    return charts.curve(
        long,
        "node",
        "share",
        color="of",
        percent=True,
        zero=True,
        points=patterns.height <= 40,
        title="Distinct activation patterns met",
        reading="Distinct on/off patterns over the images (places) seen: at 100 % no two share one; low lines are "
        "layers that send many images into the same linear region.",
        source="after Montufar et al., 2014",
        x_title="activation",
        y_title="distinct patterns",
        color_title="pattern of",
    )
