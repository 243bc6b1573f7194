"""The charts and the sentences of the study `activations`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from netopsy import charts
from netopsy.result import Figure
from netopsy.stats.describe import spread_indices
from netopsy.wording import ends, listing, plural, points

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


_HALF = (0.4, 0.6)  # what passes for the paper's "about a half"
_CHANGE = 0.02  # a share that moves by less hardly moves


def findings(
    layers: pl.DataFrame,
    patterns: pl.DataFrame,
    images: int,
    threshold: float = 0.0,
    left_out: Sequence[str] = (),
) -> list[str]:
    """Plain sentences, the most important first. layers, patterns: the study's tables. left_out: nodes not treated."""
    rest = [f"Left out, since their rows are not one an image: {listing(left_out)}."] if left_out else []
    if layers.is_empty():
        none = "The network applies no elementwise activation function that Netopsy knows, so no feature is on or off."
        return rest or [none]
    sentences = [_depth(layers), _claim(layers), _features(layers, images), *_network(patterns), *_weakest(patterns)]
    sentences += [*_places(patterns), *_silent(layers, images), *_smooth(layers, threshold)]
    return [sentence for sentence in [*sentences, *rest] if sentence]


def _depth(layers: pl.DataFrame) -> str:
    """Whether the code grows sparse with depth."""
    first, last = layers.row(0, named=True), layers.row(-1, named=True)
    text = f"{first['share']:.1%} of the values behind {first['node']}"
    if layers.height == 1:
        return f"On an average image {text} are active."
    text = f"On an average image {text} are active and {last['share']:.1%} behind {last['node']}"
    if layers.height < 4:
        return f"{text}."
    third = layers.height // 3
    early, late = _mean(layers.head(third), "share"), _mean(layers.tail(third), "share")
    rank = float(stats.spearmanr(range(layers.height), layers["share"].to_numpy()).statistic)
    trend = "" if math.isnan(rank) else f", rank correlation with depth {rank:+.2f}"
    start, end = ends(third, "activation")
    return f"{text}; {early:.1%} on average in {start}, {late:.1%} in {end}{trend}."


def _claim(layers: pl.DataFrame) -> str:
    """The paper's Section 5, held against this network."""
    spatial = layers.filter(pl.col("places") > 1)
    if spatial.height < 4:
        return ""
    first = spatial.row(0, named=True)
    third = spatial.height // 3
    change = _mean(spatial.tail(third), "share") - _mean(spatial.head(third), "share")
    half = _HALF[0] <= first["share"] <= _HALF[1]
    sparser = change < -_CHANGE
    how = "falls" if sparser else "rises" if change > _CHANGE else "stays"
    end = f"by {points(abs(change))}" if how != "stays" else "where it was"
    verdict = {
        (True, True): "both hold",
        (True, False): "only the first holds",
        (False, True): "only the second holds",
        (False, False): "neither holds",
    }[half, sparser]
    return (
        "The paper sees about a half of the features active in the first layer and a sparser code towards the end; "
        f"here {verdict}: at an average place {first['at_a_place']:.1f} of the "
        f"{plural(first['channels'], 'feature')} of "
        f"{first['node']} ({first['share']:.0%}) are active, and from the first third of the layers with places to "
        f"the last the share {how} {end}."
    )


def _features(layers: pl.DataFrame, images: int) -> str:
    """Features that are active somewhere on an image."""
    low, high = layers.sort("channels_share", maintain_order=True)[[0, -1]].iter_rows(named=True)
    if low["node"] == high["node"]:
        return ""
    parts = [
        f"{row['node']} ({row['channels_active']:.1f} of {row['channels']}, {row['channels_share']:.0%})"
        for row in (high, low)
    ]
    return (
        f"Features active anywhere on an image, over {plural(images, 'image')}: most are in use in {parts[0]}, "
        f"fewest in {parts[1]}."
    )


def _network(patterns: pl.DataFrame) -> list[str]:
    """Linear regions of the whole network."""
    if patterns.is_empty():
        return []
    images, last = patterns["images"][0], patterns.row(-1, named=True)
    text = (
        f"The {plural(images, 'image')} {'falls' if images == 1 else 'fall'} into "
        f"{plural(last['cumulative_patterns'], 'linear region')} of the net"
    )
    if images > 1:
        text += f", {last['cumulative_unique_share']:.1%} of them alone in theirs"
    apart = patterns.filter(pl.col("cumulative_patterns") == images)
    if images > 1 and apart.height:
        text += f"; the patterns up to {apart['node'][0]} tell all images apart"
    return [f"{text}."]


def _weakest(patterns: pl.DataFrame) -> list[str]:
    if patterns.is_empty() or patterns["images"][0] < 2:
        return []
    images = patterns["images"][0]
    unique = patterns.filter(pl.col("patterns") == images)
    some = patterns.filter(pl.col("patterns") < images).sort("patterns", maintain_order=True)
    verb = "gives" if unique.height == 1 else "give"
    text = f"{unique.height} of {plural(patterns.height, 'activation')} {verb} each image a pattern of its own"
    if some.height:
        parts = [f"{node} ({number:,})" for node, number in some.select("node", "patterns").head(3).iter_rows()]
        text += f"; the fewest distinct patterns are those of {listing(parts)}"
    return [f"{text}."]


def _places(patterns: pl.DataFrame) -> list[str]:
    sampled = patterns.drop_nulls("place_patterns") if patterns.height else patterns
    if sampled.is_empty():
        return []
    share = sampled.with_columns((pl.col("place_patterns") / pl.col("places_drawn")).alias("s")).sort("s")
    low, high = share[[0, -1]].iter_rows(named=True)
    first = (
        f"At {plural(low['places_drawn'], 'place')} drawn in {low['node']} the features make "
        f"{plural(low['place_patterns'], 'distinct pattern')} ({low['s']:.2%} of the places)"
    )
    if low["node"] == high["node"]:
        return [f"{first}."]
    return [
        f"{first}, the lowest share; the highest is {high['node']}'s with {high['s']:.2%} of {high['places_drawn']:,}."
    ]


def _silent(layers: pl.DataFrame, images: int) -> list[str]:
    never = layers.filter(pl.col("never_active") > 0)
    if never.is_empty():
        return []
    parts = [f"{node} ({number:,})" for node, number in never.select("node", "never_active").iter_rows()]
    return [
        f"{plural(int(never['never_active'].sum()), 'feature')} active on none of the {plural(images, 'image')}: "
        f"{listing(parts)}."
    ]


def _smooth(layers: pl.DataFrame, threshold: float) -> list[str]:
    smooth = layers.filter(~pl.col("rectifies"))
    if smooth.is_empty():
        return []
    kinds = ", ".join(smooth["operator"].unique(maintain_order=True))
    text = (
        f"{plural(smooth.height, 'activation')} ({kinds}) {'has' if smooth.height == 1 else 'have'} no zeros by "
        f"formula: active means above {threshold:g}"
    )
    bare = smooth.filter(pl.col("patterns").is_null()).height
    some = f"{bare} of them {'is' if bare == 1 else 'are'}"
    left = some if bare < smooth.height else "it is" if bare == 1 else "all are"
    return [f"{text}, and {left} left out of the patterns." if bare else f"{text}."]


def _mean(layers: pl.DataFrame, column: str) -> float:
    return float(layers[column].to_numpy().mean())
