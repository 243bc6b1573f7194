"""The tables, figures and sentences of the study `prescribe`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from netopsy.charts import bars, curve, heatmap
from netopsy.codec.file import sizes
from netopsy.deep_compression.storage_table import ALL, HEADER, OTHER
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.result import Figure
from netopsy.studies.prescribe.plan import Prescription
from netopsy.wording import listing, plural, points, size

CURVE = 60  # points of the predicted path that the table holds besides the measured ones

_LAYERS: dict[str, Any] = {
    "layer": pl.String,
    "weights": pl.Int64,
    "how": pl.String,
    "density": pl.Float64,
    "entries": pl.Int64,
    "bits": pl.Float64,
    "bytes": pl.Int64,
    "share": pl.Float64,
    "noise": pl.Float64,
    "predicted": pl.Float64,
    "sensitivity": pl.Float64,
}


def layer_table(network: Network, layers: Sequence[Layer], found: Prescription, path: Path) -> pl.DataFrame:
    """A row a layer, then the other values, the header and all; `bytes` sum to the size of the file.

    how: as it is, lossless, uniform or kmeans. density: share of weights that are not 0. entries: of the table. bits:
    in the file, positions and codes, a weight. share: bytes of float32. noise: squared error of the layer's outputs
    over their square. predicted: its share of the expected divergence, in nats. sensitivity: divergence a noise.
    """
    allocation = found.path[0] if found.chosen is None else found.chosen.allocation
    taken, stored = found.joint.taken(allocation), sizes(path)
    by_name = {row["name"]: row for row in stored}
    rows = []
    for layer in layers:
        one, row = taken[layer.name], by_name[layer.weight]
        coded = row["positions"] + row["codes"] if row["kind"] == "shared" else row["bytes"]
        loss = found.losses[layer.name][allocation.choice[layer.name]]
        rows.append(
            {
                "layer": layer.name,
                "weights": row["values"],
                "how": one.kind,
                "density": one.density,
                "entries": one.entries or None,
                "bits": 8 * coded / row["values"],
                "bytes": row["bytes"],
                "share": row["bytes"] / (4 * row["values"]),
                "noise": one.noise,
                "predicted": loss,
                "sensitivity": _sensitivity_table(found, layer.name),
            }
        )
    own = {layer.weight for layer in layers}
    rest = [row for row in stored if row["kind"] != "header" and row["name"] not in own]
    values, size = sum(row["values"] for row in rest), sum(row["bytes"] for row in rest)
    header = sum(row["bytes"] for row in stored if row["kind"] == "header")
    whole = sum(row["values"] for row in stored)
    rows.append({"layer": OTHER, "weights": values, "bytes": size, "share": size / (4 * values) if values else None})
    rows.append({"layer": HEADER, "bytes": header})
    total = path.stat().st_size
    loss = sum(row.get("predicted", 0.0) for row in rows)
    rows.append({"layer": ALL, "weights": whole, "bytes": total, "share": total / (4 * whole), "predicted": loss})
    return pl.DataFrame(rows, schema=_LAYERS)


def sensitivity_table(found: Prescription) -> pl.DataFrame:
    """The map as it was measured, a row a layer and candidate."""
    return found.sensitivity


def path_table(found: Prescription, scores: pl.DataFrame) -> pl.DataFrame:
    """The trade-off: a row a point of the path, from the largest file to the smallest.

    bytes: estimated, with all values. predicted_divergence, predicted: before all layers were rounded together;
    predicted is a drop. divergence, drop, drop_low, drop_high, expected, estimate: measured on the choosing half, null
    where not; estimated_drop: the estimate pooled along the path. chosen: the point that became the file.
    """
    measured = {trial.place: trial for trial in found.trials}
    last = len(found.path) - 1
    even = {round(i * last / max(1, CURVE - 1)) for i in range(CURVE)}
    keys = ("divergence", "drop", "drop_low", "drop_high", "expected", "estimate", "images")
    chosen = None if found.chosen is None else found.chosen.place
    rows = []
    for place in sorted(even | set(measured)):
        allocation, trial = found.path[place], measured.get(place)
        row: dict[str, Any] = {
            "bytes": allocation.bytes + found.rest,
            "predicted_divergence": allocation.loss,
            "predicted": found.exchange.drop(allocation.loss),
        }
        row |= {key: None if trial is None else trial.scores[key] for key in keys}
        row |= {"estimated_drop": None if trial is None else trial.drop}
        row |= {"chosen": place == chosen}
        rows.append(row)
    floats = {name: pl.Float64 for name in rows[0] if name not in ("images", "chosen")}
    return pl.DataFrame(rows, schema={**floats, "images": pl.Int64, "chosen": pl.Boolean}, orient="row")


def _sensitivity_table(found: Prescription, name: str) -> float | None:
    """Divergence a noise where the noise is small: of the layer's least noise that was measured."""
    if found.sensitivity.is_empty():
        return None
    rows = found.sensitivity.filter(pl.col("layer") == name).sort("noise")
    return float(rows["divergence"][0] / rows["noise"][0]) if rows.height else None


_SOURCE = "after Han et al., ICLR 2016"
BITS = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6)


def figures(tables: dict[str, pl.DataFrame], found: Prescription, budget: float) -> dict[str, Figure]:
    """trade_off: size against drop. layers: bits a weight. sensitivity: what fewer bits in each layer do."""
    drawn = {"trade_off": _trade_off(tables["path"], tables["scores"], budget), "layers": _layers(tables["layers"])}
    if tables["sensitivity"].height:
        drawn["sensitivity"] = _sensitivity_figure(found)
    return drawn


def _trade_off(path: pl.DataFrame, scores: pl.DataFrame, budget: float) -> Figure:
    kilo = (pl.col("bytes") / 1000).alias("kB")
    far = max(4 * budget, 0.02)
    file = scores.filter(pl.col("version") == "prescribed")
    near = path.filter((pl.col("predicted") <= far) & (pl.col("bytes") <= 3 * file["bytes"][0]))
    parts = [near.select(kilo, pl.col("predicted").alias("drop"), what=pl.lit("predicted, one layer at a time"))]
    tried = path.drop_nulls("estimate").filter(pl.col("estimate") <= 2 * far)
    parts.append(tried.select(kilo, pl.col("estimate").alias("drop"), what=pl.lit("measured, all layers together")))
    parts.append(file.select(kilo, "drop", what=pl.lit("the file, on the other half")))
    return curve(
        pl.concat(parts),
        "kB",
        "drop",
        color="what",
        title="Size against accuracy",
        reading="Left: a smaller file. Up: more top-1 accuracy is lost. The dashed line is the budget.",
        source=_SOURCE,
        percent=True,
        log_x=True,
        x_title="size in kB",
        y_title="drop of top-1",
        color_title="drop",
        reference=budget,
        reference_label="budget",
    )


def _layers(layers: pl.DataFrame) -> Figure:
    own = layers.filter(~pl.col("layer").is_in([OTHER, HEADER, ALL]))
    return bars(
        own,
        "layer",
        "bits",
        title="Bits a weight that each layer keeps",
        reading="Of 32 in float32; a short bar is a layer that can give up much. Layers run from the input (top) down.",
        source=_SOURCE,
        value_title="bits a weight in the file",
    )


def _sensitivity_figure(found: Prescription) -> Figure:
    rows = []
    for name, own in found.choices.items():
        noisy = [(one, loss) for one, loss in zip(own, found.losses[name], strict=True) if one.noise > 0]
        for bits in BITS if noisy else ():
            one, loss = min(noisy, key=lambda pair: abs(pair[0].bits - bits))
            if abs(one.bits - bits) <= 0.5:
                cell = {"layer": name, "bits a weight, about": f"{bits:g}", "nats": math.log10(max(loss, 1e-6))}
                rows.append({**cell, "order": bits})
    frame = pl.DataFrame(rows).sort("order", maintain_order=True)
    return heatmap(
        frame,
        "bits a weight, about",
        "layer",
        "nats",
        title="What fewer bits in each layer do to the outputs",
        reading="Each layer is rounded alone, to fewer bits on the left. Bright: the network's outputs diverge more "
        "(log10 of nats an image; -2 is little, 0 is much). White: no table has so many bits.",
        source=_SOURCE,
        value_title="log10 of divergence",
        labels=False,
    )


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
        _prediction_sentence(found, budget),
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


def _prediction_sentence(found: Prescription, budget: float) -> str:
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
