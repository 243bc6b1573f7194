"""The figures of the study `triage`."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from netopsy.charts import curve, dots
from netopsy.result import Figure
from netopsy.stats.hypothesis_tests import mean_interval

SOURCE = "Nowak & Corso, Deep Net Triage, 2018"
WAY = pl.concat_str(["training", "start"], separator="-").alias("way")
"""The paper's names: FM-RW, TM-STN, ..."""


def figures(tables: Mapping[str, pl.DataFrame]) -> dict[str, Figure]:
    """Figures 2 and 4 of the paper, and accuracy against what is left of the network."""
    charts: dict[str, Figure] = {}
    if tables["summary"].height:
        charts["accuracy"] = _accuracy(tables["cells"], tables["summary"], tables["baselines"])
        if tables["cells"]["epochs_to_99"].is_not_null().any():
            charts["epochs"] = _epochs(tables["cells"])
    if "deeper" in tables and tables["deeper"]["top1"].is_not_null().any():
        charts["deeper"] = _deeper(tables["deeper"], tables["baselines"])
    return charts


def ranges(cells: pl.DataFrame, summary: pl.DataFrame) -> pl.DataFrame:
    """A row a block and way: `top1` with `low` and `high`: the worst and best seed; of one seed, over the images."""
    intervals = cells.select("block", "start", "training", "top1_low", "top1_high").unique(
        ["block", "start", "training"], maintain_order=True
    )
    joined = summary.join(
        intervals, on=["block", "start", "training"], how="left", suffix="_images", maintain_order="left"
    )
    several = pl.col("seeds") > 1
    return joined.with_columns(
        WAY,
        low=pl.when(several).then("lowest").otherwise("top1_low_images"),
        high=pl.when(several).then("highest").otherwise("top1_high_images"),
    ).sort("training", maintain_order=True)


def _accuracy(cells: pl.DataFrame, summary: pl.DataFrame, baselines: pl.DataFrame) -> Figure:
    seeds = int(summary["seeds"].max())  # type: ignore[arg-type]
    line = "run from the worst to the best seed" if seeds > 1 else "are 95 % intervals over the images"
    return dots(
        ranges(cells, summary),
        "block",
        "top1",
        color="way",
        low="low",
        high="high",
        percent=True,
        category_title="block compressed to one layer",
        value_title="top-1 accuracy",
        color_title="training-start",
        reference=_mean(baselines["top1"]),
        title="Accuracy with each block compressed",
        reading=f"Last epoch; lines through the marks {line}. FM: the new layer alone was trained, TM: all layers.",
        source=f"{SOURCE}, Figure 2",
    )


def convergence(cells: pl.DataFrame) -> pl.DataFrame:
    """A row a start and training: `epochs` to 99 % of the best, a mean over blocks and seeds, with `low` and `high`."""
    rows = []
    converged = cells.filter(pl.col("epochs_to_99").is_not_null())
    for (start, training), rows_here in converged.group_by("start", "training", maintain_order=True):
        # blocks are what varies: the seeds of one are averaged first
        means = (
            rows_here.group_by("block", maintain_order=True)
            .agg(pl.col("epochs_to_99").mean())["epochs_to_99"]
            .to_list()
        )
        low, high = mean_interval(means)
        rows.append({"start": start, "training": training, "epochs": sum(means) / len(means), "low": low, "high": high})
    schema = {"start": pl.String, "training": pl.String, "epochs": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def _epochs(cells: pl.DataFrame) -> Figure:
    return dots(
        convergence(cells),
        "start",
        "epochs",
        color="training",
        low="low",
        high="high",
        category_title="start of the new layer",
        value_title="epochs",
        title="Epochs until the accuracy is within 1 % of its best",
        reading="Means over the blocks, with 95 % intervals by Student's t over them. The epochs of the STN start are "
        "not counted.",
        source=f"{SOURCE}, Figure 4",
    )


def _deeper(deeper: pl.DataFrame, baselines: pl.DataFrame) -> Figure:
    columns = ("compressed", "share", "top1", "lowest", "highest")
    way = f"{deeper['training'][0]}-{deeper['start'][0]}"
    scored = deeper.filter(pl.col("top1").is_not_null()).select(columns)
    scored_baselines = baselines.filter(pl.col("top1").is_not_null())
    uncompressed = {
        "compressed": 0,
        "share": 1.0,
        "top1": _mean(scored_baselines["top1"]),
        "lowest": None,
        "highest": None,
    }
    return curve(
        pl.concat([pl.DataFrame([uncompressed], schema=scored.schema), scored]),
        "share",
        "top1",
        low="lowest",
        high="highest",
        percent=True,
        percent_x=True,
        x_title="parameters left",
        y_title="top-1 accuracy",
        reference=uncompressed["top1"],
        reference_label="baseline",
        title="More and more blocks compressed at once",
        reading=f"From right to left one block more is one layer, the least critical first ({way}). The band runs from "
        "the worst to the best seed.",
        source=f"{SOURCE}, Section 5 (future work)",
    )


def _mean(values: pl.Series) -> float:
    return float(values.drop_nulls().mean())  # type: ignore[arg-type]
