"""How many features answer, and how many activation patterns, and so linear regions of the input space, occur."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from netopsy.network.activations import rectifies
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.tallies.patterns import PatternsResult, mix
from netopsy.tallies.sparsity import ActiveCountResult

BINS = 25  # of a histogram in a table, at most
_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_LAYERS: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "operator": pl.String,
    "rectifies": pl.Boolean,
    "shape": pl.String,
    "channels": pl.Int64,
    "places": pl.Int64,
    "channels_active": pl.Float64,
    "channels_share": pl.Float64,
    "at_a_place": pl.Float64,
    "share": pl.Float64,
    "never_active": pl.Int64,
    "on_every_image": pl.Int64,
}


def layers(
    network: Network, nodes: Mapping[str, Node], active: Mapping[str, ActiveCountResult], patterns: pl.DataFrame
) -> pl.DataFrame:
    """One row a node: means over the images, and the patterns met."""
    rows = []
    for name, node in nodes.items():
        result = active[name]
        channels = len(result.channel_images)
        number = float(_mean(result.by_channels))
        rows.append(
            {
                "node": name,
                "layer": node.layer,
                "operator": node.operator,
                "rectifies": rectifies(node),
                "shape": "x".join(map(str, node.shape)),
                "channels": channels,
                "places": result.places,
                "channels_active": number,
                "channels_share": number / max(1, channels),
                "at_a_place": result.share_mean * channels,
                "share": result.share_mean,
                "never_active": int((result.channel_images == 0).sum()),
                "on_every_image": int((result.channel_images == result.images).sum()),
            }
        )
    frame = pl.DataFrame(rows, schema=_LAYERS)
    columns = ("patterns", "unique_share", "cumulative_patterns", "cumulative_unique_share")
    return frame.join(patterns.select("node", *columns), on="node", how="left", maintain_order="left")


def activity(active: Mapping[str, ActiveCountResult]) -> pl.DataFrame:
    """Shares 0..1, one row a node and measure: of `of` channels active anywhere on an image, of `of` values of an image
    that are active, and of `of` channels active at one place (over all places of all images).

    Quantiles are the smallest share that at least so many images (places) do not exceed; that of the values is
    rounded down to a thousandth.
    """
    rows = []
    for name, result in active.items():
        channels = len(result.channel_images)
        measures = {
            "channels on an image": (channels, result.by_channels, None),
            "values on an image": (channels * result.places, result.by_share, result),
        }
        if result.places > 1:
            measures["channels at a place"] = (channels, result.by_place, None)
        for measure, (of, histogram, exact) in measures.items():
            top = len(histogram) - (0 if exact else 1)
            mean, variance = (exact.share_mean, exact.share_variance) if exact else _moments(histogram, top)
            quantiles = {key: quantile(histogram, q) / max(1, top) for key, q in _QUANTILES.items()}
            rows.append({"node": name, "measure": measure, "of": of, "mean": mean, "sd": variance**0.5, **quantiles})
    schema: dict[str, Any] = {"node": pl.String, "measure": pl.String, "of": pl.Int64}
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(("mean", "sd", *_QUANTILES), pl.Float64))


def histograms(active: Mapping[str, ActiveCountResult]) -> pl.DataFrame:
    """Images by their number of channels active, and places by theirs: node, measure, left, right (open), count."""
    frames = []
    for name, result in active.items():
        frames.append(bin_counts(result.by_channels, node=name, measure="channels on an image"))
        if result.places > 1:
            frames.append(bin_counts(result.by_place, node=name, measure="channels at a place"))
    return pl.concat(frames)


def bin_counts(counts: Tensor, **labels: Any) -> pl.DataFrame:
    """Counts by whole number, 0 upwards, in at most `BINS` bins of equal width: left, right (half open), count."""
    width = -(-len(counts) // BINS)
    padded = torch.nn.functional.pad(counts, (0, -len(counts) % width))
    left = range(0, len(counts), width)
    columns = {"left": left, "right": [n + width for n in left], "count": padded.view(-1, width).sum(1).tolist()}
    return pl.DataFrame(columns).select(*(pl.lit(value).alias(key) for key, value in labels.items()), pl.all())


def channels(active: Mapping[str, ActiveCountResult]) -> pl.DataFrame:
    """One row a channel: the share of images on which it was active anywhere."""
    frames = [
        pl.DataFrame(
            {
                "node": [name] * len(result.channel_images),
                "channel": range(len(result.channel_images)),
                "images_share": (result.channel_images / max(1, result.images)).tolist(),
            }
        )
        for name, result in active.items()
    ]
    return pl.concat(frames)


def quantile(counts: Tensor, share: float) -> int:
    """The smallest number that at least a `share` of all counted do not exceed."""
    reached = counts.cumsum(0).double() >= share * counts.sum().double()
    return int(reached.long().argmax())


def _mean(counts: Tensor) -> Tensor:
    return (counts * torch.arange(len(counts))).sum().double() / counts.sum().clamp(min=1)


def _moments(counts: Tensor, top: int) -> tuple[float, float]:
    """Mean and population variance of number / top."""
    shares = torch.arange(len(counts), dtype=torch.float64) / max(1, top)
    weights = counts / counts.sum().clamp(min=1)
    mean = (shares * weights).sum()
    return float(mean), float(((shares - mean).square() * weights).sum())


_SCHEMA: dict[str, Any] = {
    "node": pl.String,
    "images": pl.Int64,
    "patterns": pl.Int64,
    "unique_share": pl.Float64,
    "cumulative_patterns": pl.Int64,
    "cumulative_unique_share": pl.Float64,
    "places_drawn": pl.Int64,
    "place_patterns": pl.Int64,
    "place_unique_share": pl.Float64,
    "commonest_place_share": pl.Float64,
}


def pattern_table(hashes: Mapping[str, PatternsResult]) -> pl.DataFrame:
    """One row a node, in order of execution.

    patterns: distinct patterns among the images; unique_share: of images whose pattern no other image has.
    cumulative_*: the same for the patterns of this node and all before it together: the linear region of the network
    up to here. place_*: for the channels' patterns at the places drawn; commonest: the share of the most frequent one.
    """
    rows = []
    region: Tensor | None = None
    for name, patterns_result in hashes.items():
        region = mix(patterns_result.images if region is None else region + patterns_result.images)
        patterns, unique, _ = distinct(patterns_result.images)
        together, alone, _ = distinct(region)
        row = [name, len(patterns_result.images), patterns, unique, together, alone]
        places = distinct(patterns_result.places) if len(patterns_result.places) else (None, None, None)
        rows.append([*row, len(patterns_result.places), *places])
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def distinct(hashes: Tensor) -> tuple[int, float, float]:
    """Number of distinct hashes, share of hashes that occur once, share of the most frequent one."""
    counts = torch.unique(hashes, return_counts=True)[1]
    total = max(1, len(hashes))
    return len(counts), float((counts == 1).sum()) / total, float(counts.max()) / total if len(counts) else 0.0
