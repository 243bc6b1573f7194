"""The sentences of the study `activations`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl
from scipy import stats

from netopsy.wording import ends, listing, plural, points

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
