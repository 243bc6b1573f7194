"""What a sweep's scores show: accuracy against the setting in figures, and in sentences which edits cost little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import polars as pl

from netopsy.charts import curve, heatmap
from netopsy.result import Figure
from netopsy.wording import capital, listing, plural, points

THRESHOLDS = (0.001, 0.005, 0.01)
"""Losses of top-1 accuracy that count as small: 0.1, 0.5 and 1 point."""
FRAGILE = 3

Row = dict[str, Any]
Describe = Callable[[Row], str]
TextPair = tuple[str, str]


def setting_figures(
    rows: pl.DataFrame,
    setting: str,
    *,
    unedited: float,
    titles: TextPair,
    sources: TextPair,
    axis: Literal["share", "log", "category"],
    axis_title: str | None = None,
    band: TextPair = ("top1_low", "top1_high"),
    reading: str = "The dashed line is the unedited network; the band is the 95 % interval.",
    names: TextPair = ("all", "layers"),
) -> dict[str, Figure]:
    """Top-1 accuracy against a setting: a curve of all layers edited together, and a map of one layer at a time.

    rows: scores with layer (`all` for all together), the column `setting` (null: unedited, not drawn), top1, drop and
    the two columns of `band`. unedited: top-1 accuracy of the unedited network, drawn as a dashed line.
    titles, sources, names: of the curve and of the map. axis: `share` shows the setting in per cent, `log` on a
    logarithmic axis, `category` side by side. A figure that has no rows is left out.
    """
    edited = rows.filter(pl.col(setting).is_not_null())
    together, alone = edited.filter(pl.col("layer") == "all"), edited.filter(pl.col("layer") != "all")
    figures = {}
    if together.height:
        if axis == "category":
            together = together.with_columns(pl.col(setting).cast(pl.String))
        figures[names[0]] = curve(
            together,
            setting,
            "top1",
            low=band[0],
            high=band[1],
            log_x=axis == "log",
            percent=True,
            percent_x=axis == "share",
            reference=unedited,
            x_title=axis_title,
            y_title="top-1 accuracy",
            title=titles[0],
            reading=reading,
            source=sources[0],
        )
    if alone.height:
        figures[names[1]] = heatmap(
            alone,
            setting,
            "layer",
            "drop",
            percent=True,
            percent_x=axis == "share",
            value_title="points lost",
            title=titles[1],
            reading="A row a layer, in order of execution; the brighter a cell, the more accuracy is lost.",
            source=sources[1],
        )
    return figures


def harshest_within(rows: pl.DataFrame, threshold: float) -> Row | None:
    """The last of `rows`, ordered from the mildest setting to the harshest, whose `drop` is below `threshold`."""
    milder = rows.filter(pl.col("drop") < threshold - 1e-12)
    return milder.row(-1, named=True) if milder.height else None


def verdict(rows: pl.DataFrame, describe: Describe, superlative: str) -> list[str]:
    """The harshest settings that lose less than 0.1, 0.5 and 1 point, with their intervals.

    rows: scores of all layers together, from the mildest setting to the harshest, with drop, drop_low, drop_high and
    images. describe: a row's setting in words, as `K = 32`. superlative: as `smallest codebook`.
    """
    if rows.is_empty():
        return []
    harshest = [(threshold, harshest_within(rows, threshold)) for threshold in THRESHOLDS]
    findings: list[str] = []
    while harshest:
        row = harshest[0][1]
        same = [threshold for threshold, other in harshest if other == row]
        harshest = harshest[len(same) :]
        limits = listing([f"{100 * threshold:g}" for threshold in same]) + (" point" if same == [0.01] else " points")
        if row is None:
            findings.append(f"With all layers edited, no setting tried loses less than {limits} of top-1 accuracy.")
        else:
            sentence = _setting_sentence(rows, row, describe, same[0])
            findings.append(f"With all layers edited, the {superlative} that loses less than {limits} is {sentence}.")
    return findings + caveat(rows)


def _setting_sentence(rows: pl.DataFrame, row: Row, describe: Describe, threshold: float) -> str:
    """The setting with its loss and interval, and a milder one that loses more, if there is one."""
    text = f"{describe(row)} (it loses {100 * row['drop'] + 0.0:.2f}, 95 % interval {_interval(row)}"
    worse = [other for other in rows.to_dicts() if other["drop"] >= threshold]
    index = rows.to_dicts().index(row)
    milder = [other for other in worse if rows.to_dicts().index(other) < index]
    if milder:
        text += f"; the milder {describe(milder[-1])} loses {100 * milder[-1]['drop']:.2f}"
    return text + ")"


def _interval(row: Row) -> str:
    return f"{100 * row['drop_low'] + 0.0:.2f} to {100 * row['drop_high'] + 0.0:.2f}"


def caveat(rows: pl.DataFrame) -> list[str]:
    """A warning where the intervals of mild losses are wider than the smallest threshold."""
    mild = rows.filter((pl.col("drop").abs() < 2 * THRESHOLDS[-1]) & (pl.col("drop_high") > pl.col("drop_low")))
    if mild.is_empty():
        return []
    row = mild.with_columns(half=(pl.col("drop_high") - pl.col("drop_low")) / 2).sort("half").row(-1, named=True)
    if row["half"] <= THRESHOLDS[0]:
        return []
    return [
        f"On {plural(row['images'], 'image')} a loss is known to about {points(row['half'])} either way (95 %): "
        "settings that differ by less cannot be told apart."
    ]


def fragile(rows: pl.DataFrame, describe: Describe, how: str = "edited") -> list[str]:
    """The layers that lose most when they alone are edited, by their mean loss over the settings.

    rows: scores of one layer at a time, with layer and drop. how: what was done to the layers, as `rounded`.
    """
    layers = rows["layer"].unique(maintain_order=True).to_list()
    if len(layers) < 2:
        return []
    means = rows.group_by("layer", maintain_order=True).agg(mean=pl.col("drop").mean(), worst=pl.col("drop").max())
    if means["worst"].max() < THRESHOLDS[0]:  # type: ignore[operator]
        return [f"{capital(how)} one at a time, no layer of {len(layers)} loses 0.1 points in any setting tried."]
    parts = []
    for row in means.sort("mean", descending=True, maintain_order=True).head(FRAGILE).to_dicts():
        worst = rows.filter(pl.col("layer") == row["layer"]).sort("drop", maintain_order=True).row(-1, named=True)
        loss = f"loses {points(row['mean'])} on average, {points(worst['drop'])} with {describe(worst)}"
        parts.append(f"{row['layer']} ({loss})")
    unhurt = means.filter(pl.col("worst") < THRESHOLDS[0]).height
    sentence = f"Most fragile, {how} one at a time: {listing(parts)}."
    if unhurt:
        sentence += f" {unhurt} of {len(layers)} layers lose less than 0.1 points in every setting tried."
    return [sentence]


def unchanged_settings(rows: pl.DataFrame, describe: Describe) -> list[str]:
    """Names the settings that changed no weight and so have the unedited network's score."""
    same = rows.filter(~pl.col("changed"))
    if same.is_empty():
        return []
    parts = [f"{row['layer']} with {describe(row)}" for row in same.to_dicts()]
    return [f"No weight changes, so the score is that of the unedited network: {listing(parts, 4)}."]
