"""What a sweep's scores show: accuracy against the setting in figures, and in sentences which edits cost little."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal

import polars as pl

from netopsy.charts import curve, heatmap
from netopsy.network.listing import other_parameters
from netopsy.network.network import Network
from netopsy.result import Figure
from netopsy.wording import capital, listing, plural, points

THRESHOLDS = (0.001, 0.005, 0.01)
"""Losses of top-1 accuracy that count as small: 0.1, 0.5 and 1 point. Told where the images suffice to tell."""
_ROUNDING = 1e-12
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


def verdict(rows: pl.DataFrame, describe: Describe, superlative: str) -> list[str]:
    """The harshest settings that lose less than 0.1, 0.5 and 1 point, as far as the images can tell.

    A setting counts as losing less where its whole 95 % interval lies below; of losses that the images are too few to
    show, the harshest setting is named whose interval holds 0.

    rows: scores of all layers together, from the mildest setting to the harshest, with drop, drop_low, drop_high and
    images. describe: a row's setting in words, as `K = 32`. superlative: as `smallest codebook`.
    """
    if rows.is_empty():
        return []
    known = [(threshold, _harshest(rows, pl.col("drop_high") < threshold - _ROUNDING)) for threshold in THRESHOLDS]
    sentences, unknown = [], []
    for row, group in groupby(known, key=lambda pair: pair[1]):
        thresholds = [threshold for threshold, _ in group]
        if row is not None:
            claim = f"the {superlative} that loses less than {_limits(thresholds)}"
            sentences.append(f"With all layers edited, {claim} is {_setting_sentence(rows, row, describe)}.")
            continue
        exceeded = [threshold for threshold in thresholds if (rows["drop_low"] >= threshold - _ROUNDING).all()]
        unknown += [threshold for threshold in thresholds if threshold not in exceeded]
        if exceeded:
            limits = _limits(exceeded)
            sentences.append(f"With all layers edited, no setting tried loses less than {limits} of top-1 accuracy.")
    if unknown:
        sentences.append(_too_few_images(rows, describe, superlative, unknown))
    return sentences


def _harshest(rows: pl.DataFrame, which: pl.Expr) -> Row | None:
    """The last of `rows`, ordered from the mildest setting to the harshest, of those that `which` chooses."""
    chosen = rows.filter(which)
    return chosen.row(-1, named=True) if chosen.height else None


def _limits(thresholds: list[float]) -> str:
    """`0.1 and 0.5 points`."""
    return listing([f"{100 * t:g}" for t in thresholds]) + (" point" if thresholds == [0.01] else " points")


def _too_few_images(rows: pl.DataFrame, describe: Describe, superlative: str, thresholds: list[float]) -> str:
    """What can be said of losses that the images are too few to show."""
    widths = (rows["drop_high"] - rows["drop_low"]).to_list()
    half, images = min(width for width in widths if width > 0) / 2, max(rows["images"].to_list())
    limit = (
        f"{plural(images, 'image')} cannot show a loss of {_limits(thresholds)}: at best it is known to "
        f"{points(half)} either way (95 %)."
    )
    row = _harshest(rows, pl.col("drop_low") <= _ROUNDING)
    if row is None:
        return f"With all layers edited, every setting tried loses measurably; {limit}"
    sentence = _setting_sentence(rows, row, describe)
    return f"With all layers edited, the {superlative} without a measurable loss is {sentence}; {limit}"


def _setting_sentence(rows: pl.DataFrame, row: Row, describe: Describe) -> str:
    """The setting with its loss and interval, and the last milder one that loses more, if there is one."""
    text = f"{describe(row)} (it loses {100 * row['drop'] + 0.0:.2f}, 95 % interval {_interval(row)}"
    every = rows.to_dicts()
    worse = [milder for milder in every[: every.index(row)] if milder["drop_low"] > row["drop_high"]]
    if worse:
        text += f"; the milder {describe(worse[-1])} loses {100 * worse[-1]['drop']:.2f}"
    return text + ")"


def _interval(row: Row) -> str:
    return f"{100 * row['drop_low'] + 0.0:.2f} to {100 * row['drop_high'] + 0.0:.2f}"


def fragile(rows: pl.DataFrame, describe: Describe, how: str = "edited") -> list[str]:
    """The layers that lose most when they alone are edited, by their mean loss over the settings.

    A layer that no setting hurts measurably (its intervals hold 0) is not named.

    rows: scores of one layer at a time, with layer, drop, drop_low, drop_high and images. how: what was done to the
    layers, as `rounded`.
    """
    layers = rows["layer"].unique(maintain_order=True).to_list()
    if len(layers) < 2:
        return []
    means = rows.group_by("layer", maintain_order=True).agg(
        mean=pl.col("drop").mean(), hurt=(pl.col("drop_low") > _ROUNDING).any()
    )
    hurt = means.filter("hurt").sort("mean", descending=True, maintain_order=True)
    if hurt.is_empty():
        worst, images = rows.sort("drop", maintain_order=True).row(-1, named=True), rows["images"].max()
        return [
            f"{capital(how)} one at a time, no layer of {len(layers)} loses measurably in any setting tried: the "
            "most is "
            f"{points(worst['drop'])} (95 % interval {_interval(worst)}) on {plural(images, 'image')}."  # type: ignore[arg-type]
        ]
    parts = []
    for row in hurt.head(FRAGILE).to_dicts():
        worst = rows.filter(pl.col("layer") == row["layer"]).sort("drop", maintain_order=True).row(-1, named=True)
        loss = f"loses {points(row['mean'])} on average, {points(worst['drop'])} with {describe(worst)}"
        parts.append(f"{row['layer']} ({loss})")
    sentence = f"Most fragile, {how} one at a time: {listing(parts)}."
    if unhurt := len(layers) - hurt.height:
        sentence += f" {unhurt} of {plural(len(layers), 'layer')} lose nothing measurable in any setting tried."
    return [sentence]


NEGLIGIBLE = 0.01
"""Share of the parameters that may belong to no layer without a word: norms."""


def with_left_out(findings: list[str], network: Network) -> list[str]:
    """`findings`, and what share of the parameters "all layers" leave out: first where it is a tenth or more."""
    others = other_parameters(network)
    total, count = max(1, network.parameters), sum(others.values())
    if count < NEGLIGIBLE * total:
        return findings
    largest = max(others, key=others.__getitem__)
    most = f"most of them in {largest} ({others[largest] / total:.1%})" if others[largest] > count / 2 else ""
    sentence = (
        f"All layers together hold {1 - count / total:.1%} of the parameters; norms, embeddings and others, "
        f"{count / total:.1%}, stay as they are{most and ', ' + most}."
    )
    return [sentence, *findings] if count >= total / 10 else [*findings, sentence]


def unchanged_settings(rows: pl.DataFrame, describe: Describe) -> list[str]:
    """Names the settings that changed no weight and so have the unedited network's score."""
    same = rows.filter(~pl.col("changed"))
    if same.is_empty():
        return []
    parts = [f"{row['layer']} with {describe(row)}" for row in same.to_dicts()]
    return [f"No weight changes, so the score is that of the unedited network: {listing(parts, 4)}."]
