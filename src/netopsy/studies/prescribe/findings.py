"""The sentences of the study `prescribe`."""

from __future__ import annotations

from typing import Any

import polars as pl

from netopsy.deep_compression.account import ALL, HEADER, OTHER
from netopsy.network.network import Network
from netopsy.studies.prescribe.allocation.plan import Prescription
from netopsy.wording import listing, plural, points, size

_NAMED = 3


def findings(
    network: Network, tables: dict[str, pl.DataFrame], found: Prescription, budget: float, where: str
) -> list[str]:
    """Plain sentences, the most important first. where: the file, as a reader finds it."""
    before, after = tables["scores"].to_dicts()
    layers = tables["layers"]
    total = layers.filter(pl.col("layer") == ALL).row(0, named=True)
    return [
        _head(network, total, after, budget),
        *_verdict(after, budget),
        _predicted(found, budget),
        f"On the {after['images']:,} reporting images the unedited network scores {before['top1']:.2%}, the file "
        f"{after['top1']:.2%}; they agree on {after['agreement']:.1%} of the predictions.",
        *_most_and_least(layers),
        *_as_they_are(layers),
        f"The file is {where}; it was read back, and what it holds was scored.",
    ]


def _head(network: Network, total: dict[str, Any], after: dict[str, Any], budget: float) -> str:
    return (
        f"{network.name} fits into {size(total['bytes'])} on disk, {1 / total['share']:.1f} times less than float32 "
        f"({size(4 * total['weights'])}), without training: with a budget of {points(budget)} it loses "
        f"{points(after['drop'])} of top-1 accuracy (95 % interval {_interval(after)}) on {after['images']:,} images "
        "that were not used to choose."
    )


def _verdict(after: dict[str, Any], budget: float) -> list[str]:
    """What the interval says of the budget; and of few images, what they could show at all."""
    said = []
    if after["drop_low"] > budget:
        said.append(f"That is more than the budget: the drop is at least {points(after['drop_low'])} (95 %).")
    half = (after["drop_high"] - after["drop_low"]) / 2
    if half > budget:
        said.append(
            f"{plural(after['images'], 'image')} cannot show a drop of {points(budget)}: it is known to about "
            f"{points(half)} either way, and one image is {points(1 / after['images'])}. More samples tell more."
        )
    return said


def _predicted(found: Prescription, budget: float) -> str:
    trial = found.chosen
    images = found.trials[0].scores["images"]
    if trial is None:
        best = found.trials[0]
        return (
            f"No file that was tried stays within {points(budget)} on the {images:,} choosing images; the gentlest is "
            f"taken, and loses {points(best.drop)} there."
        )
    loss, scores = trial.allocation.loss, trial.scores
    return (
        f"Predicted from the layers one at a time: a drop of {points(found.exchange.drop(loss))} and a divergence of "
        f"{loss:.3g} nats. Measured with all layers together on the {images:,} choosing images: {points(trial.drop)} "
        f"and {scores['divergence']:.3g} nats (counted alone: {points(scores['drop'])})."
    )


def _most_and_least(layers: pl.DataFrame) -> list[str]:
    own = layers.filter(~pl.col("layer").is_in([OTHER, HEADER, ALL])).sort("bits", maintain_order=True)
    if own.height < 2:
        return []
    count = min(_NAMED, own.height // 2)
    most = [_bits(row) for row in own.head(count).to_dicts()]
    least = [_bits(row) for row in own.tail(count).reverse().to_dicts()]
    return [f"Most can be given up by {listing(most)}; least by {listing(least)}."]


def _as_they_are(layers: pl.DataFrame) -> list[str]:
    names = layers.filter(pl.col("how") == "as it is")["layer"].to_list()
    return [f"Kept as they are: {listing(names)}, for no table would be smaller and as good."] if names else []


def _bits(row: dict[str, Any]) -> str:
    return f"{row['layer']} ({row['bits']:.1f} bits a weight, {row['density']:.0%} of them not zero)"


def _interval(row: dict[str, Any]) -> str:
    return f"{100 * row['drop_low'] + 0.0:.2f} to {100 * row['drop_high'] + 0.0:.2f}"
