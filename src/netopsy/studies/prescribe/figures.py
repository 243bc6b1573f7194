"""The figures of the study `prescribe`."""

from __future__ import annotations

import math

import polars as pl

from netopsy.charts import bars, curve, heatmap
from netopsy.deep_compression.account import ALL, HEADER, OTHER
from netopsy.result import Figure
from netopsy.studies.prescribe.allocation.plan import Prescription

_SOURCE = "after Han et al., ICLR 2016"
BITS = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6)


def figures(tables: dict[str, pl.DataFrame], found: Prescription, budget: float) -> dict[str, Figure]:
    """trade_off: size against drop. layers: bits a weight. sensitivity: what fewer bits in each layer do."""
    drawn = {"trade_off": _trade_off(tables["path"], tables["scores"], budget), "layers": _layers(tables["layers"])}
    if tables["sensitivity"].height:
        drawn["sensitivity"] = _sensitivity(found)
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


def _sensitivity(found: Prescription) -> Figure:
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
