"""The charts and the sentences of the study `activations`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from netopsy import charts
from netopsy.result import Figure, Finding
from netopsy.stats.describe import spread_indices
from netopsy.wording import alike, ends, listing, percent, plural

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
    "channels on an image": "features at any place",
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


_HALF = (0.4, 0.6)  # what passes for "about half"
_CHANGE = 0.02  # a share that moves by less hardly moves


def findings(
    layers: pl.DataFrame,
    patterns: pl.DataFrame,
    images: int,
    threshold: float = 0.0,
    left_out: Sequence[str] = (),
) -> list[Finding]:
    """Plain sentences, the most important first. layers, patterns: the study's tables. left_out: nodes not treated."""
    rest = []
    if left_out:
        rest = [Finding(f"Left out, because their rows are not one image each: {listing(left_out)}.", 0.0)]
    if layers.is_empty():
        none = "The network applies no elementwise activation function that Netopsy knows, so no feature is on or off."
        return rest or [Finding(none, 0.0)]
    sentences = [_depth(layers), *_silent(layers, images), *_network(patterns), *_weakest(patterns)]
    return [*sentences, *_features(layers, images), *_smooth(layers, threshold), *rest]


def _depth(layers: pl.DataFrame) -> Finding:
    """Whether the code grows sparse with depth, and how sparse it is at first."""
    spatial = layers.filter(pl.col("places") > 1)
    layers = spatial if spatial.height >= 4 else layers
    first, last = layers.row(0, named=True), layers.row(-1, named=True)
    text = f"On an average image {percent(first['share'])} of the values behind {first['node']} are active"
    if layers.height == 1:
        return Finding(f"{text}.", 0.5)
    if layers.height < 4:
        return Finding(f"{text}, and {percent(last['share'])} behind {last['node']}.", 0.5)
    third = layers.height // 3
    early, late = _mean(layers.head(third), "share"), _mean(layers.tail(third), "share")
    start, end = ends(third, "activation")
    half = ", about half," if _HALF[0] <= first["share"] <= _HALF[1] else ""
    if abs(late - early) <= _CHANGE:
        text = f"The code does not grow sparser with depth: {percent(late)} of the values are active in {end}"
    else:
        text = (
            f"The code grows {'sparser' if late < early else 'denser'} with depth: {percent(early)} of the values are "
            f"active in {start}, {percent(late)} in {end}"
        )
    text += f"; behind {first['node']} {percent(first['share'])}{half} are."
    return Finding(text, min(5.0, abs(late - early) / 0.1))


def _features(layers: pl.DataFrame, images: int) -> list[Finding]:
    """Features that are active somewhere on an image."""
    names, shares = layers["node"].to_list(), layers["channels_share"].to_list()
    if max(shares) == min(shares):
        return []
    most, fewest = (listing(alike(names, [sign * share for share in shares]), 3) for sign in (1, -1))
    text = (
        f"On an average image {percent(max(shares))} of the features of {most} are active somewhere, and "
        f"{percent(min(shares))} of those of {fewest} ({plural(images, 'image')})."
    )
    return [Finding(text, min(5.0, (max(shares) - min(shares)) / 0.2))]


def _network(patterns: pl.DataFrame) -> list[Finding]:
    """Linear regions of the whole network."""
    if patterns.is_empty() or patterns["images"][0] < 2:
        return []
    images, regions = patterns["images"][0], patterns["cumulative_patterns"][-1]
    apart = patterns.filter(pl.col("cumulative_patterns") == images)
    if apart.height:
        text = f"Every image has its own activation pattern, by {apart['node'][0]} at the latest."
        return [Finding(text, 0.5)]
    if regions == 1:
        return [Finding(f"All {images:,} images share one activation pattern: the network is linear on them.", 5.0)]
    text = f"{plural(images, 'image')} have {regions:,} activation patterns between them: some share a linear region."
    return [Finding(text, min(5.0, 5 * (1 - regions / images)))]


def _weakest(patterns: pl.DataFrame) -> list[Finding]:
    """The activation that tells the fewest images apart."""
    if patterns.is_empty() or patterns["images"][0] < 2 or patterns["cumulative_patterns"][-1] == 1:
        return []
    images, counts = patterns["images"][0], patterns["patterns"].to_list()
    if min(counts) == images:
        return []
    names = listing(alike(patterns["node"].to_list(), [-count for count in counts]), 3)
    text = f"{names} alone tells the fewest images apart: {min(counts):,} patterns on {plural(images, 'image')}."
    return [Finding(text, min(5.0, 2 * (1 - min(counts) / images)))]


def _silent(layers: pl.DataFrame, images: int) -> list[Finding]:
    never = layers.filter(pl.col("never_active") > 0)
    if never.is_empty():
        return []
    parts = [f"{node} ({number:,})" for node, number in never.select("node", "never_active").iter_rows()]
    count, all_features = int(never["never_active"].sum()), int(layers["channels"].sum())
    verb = "fires" if count == 1 else "fire"
    text = (
        f"{count:,} of {plural(all_features, 'feature')} never {verb} on {plural(images, 'image')}: {listing(parts)}."
    )
    return [Finding(text, min(5.0, 1 + 20 * count / all_features))]


def _smooth(layers: pl.DataFrame, threshold: float) -> list[Finding]:
    smooth = layers.filter(~pl.col("rectifies"))
    if smooth.is_empty():
        return []
    kinds = ", ".join(smooth["operator"].unique(maintain_order=True))
    text = (
        f"{plural(smooth.height, 'activation')} ({kinds}) {'has' if smooth.height == 1 else 'have'} no zeros, so "
        f"active means above {threshold:g}"
    )
    bare = smooth.filter(pl.col("patterns").is_null()).height
    some = f"{bare} of them {'is' if bare == 1 else 'are'}"
    left = some if bare < smooth.height else "it is" if bare == 1 else "all are"
    return [Finding(f"{text}, and {left} left out of the patterns." if bare else f"{text}.", 0.0)]


def _mean(layers: pl.DataFrame, column: str) -> float:
    return float(layers[column].to_numpy().mean())
