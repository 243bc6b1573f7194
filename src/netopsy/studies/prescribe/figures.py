"""The figures of the study `prescribe`."""

from __future__ import annotations

import polars as pl

from netopsy.charts import bars, curve, heatmap
from netopsy.engine.prescribe.sensitivity import LEVELS
from netopsy.result import Figure
from netopsy.studies.prescribe.tables import ALL, HEADER, OTHER

_SOURCE = "after Han et al., ICLR 2016"


def figures(tables: dict[str, pl.DataFrame], budget: float) -> dict[str, Figure]:
    """trade_off: size against drop. layers: bits a weight. sensitivity: what noise in each layer does."""
    drawn = {"trade_off": _trade_off(tables["path"], tables["scores"], budget), "layers": _layers(tables["layers"])}
    if tables["sensitivity"].height:
        drawn["sensitivity"] = _sensitivity(tables["sensitivity"])
    return drawn


def _trade_off(path: pl.DataFrame, scores: pl.DataFrame, budget: float) -> Figure:
    kilo = (pl.col("bytes") / 1000).alias("kB")
    far = max(4 * budget, 0.02)
    near = path.filter(pl.col("predicted") <= far)
    parts = [near.select(kilo, pl.col("predicted").alias("drop"), what=pl.lit("predicted, one layer at a time"))]
    tried = path.drop_nulls("estimate").filter(pl.col("estimate") <= 2 * far)
    parts.append(tried.select(kilo, pl.col("estimate").alias("drop"), what=pl.lit("measured, all layers together")))
    file = scores.filter(pl.col("version") == "prescribed")
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


def _sensitivity(measured: pl.DataFrame) -> Figure:
    logs = [abs((pl.col("noise") / level).log()) for level in LEVELS]
    level = pl.concat_list(logs).list.arg_min()
    frame = measured.with_columns(level=level.replace_strict(dict(enumerate(LEVELS)), return_dtype=pl.Float64))
    frame = frame.unique(["layer", "level"], keep="first", maintain_order=True)
    frame = frame.with_columns(
        pl.col("level").map_elements(lambda x: f"{x:g}", return_dtype=pl.String).alias("noise of the outputs, about"),
        pl.col("divergence").clip(1e-6, 1e3).log10().alias("log10 of divergence"),
    )
    order = {name: i for i, name in enumerate(measured["layer"].unique(maintain_order=True))}
    frame = frame.sort("level", pl.col("layer").replace_strict(order, return_dtype=pl.Int64))
    return heatmap(
        frame,
        "noise of the outputs, about",
        "layer",
        "log10 of divergence",
        title="What noise in each layer does to the outputs",
        reading="Each layer is rounded alone, harsher to the right. Bright: the network's outputs diverge more (log10 "
        "of nats an image).",
        source=_SOURCE,
    )
