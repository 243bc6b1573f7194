"""Bins counted beforehand, with fitted densities over them."""

from __future__ import annotations

import altair as alt
import polars as pl

from netopsy.charts.parts import (
    color_channel,
    field_name,
    in_order,
    inline,
    legend_channel,
    make_figure,
    tip,
    unique_columns,
)
from netopsy.result import Figure


def histogram(
    frame: pl.DataFrame,
    left: str,
    right: str,
    count: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    facet: str | None = None,
    fits: pl.DataFrame | None = None,
    fit_x: str = "x",
    fit_y: str = "y",
    fit_name: str = "fit",
    x_title: str | None = None,
    y_title: str | None = None,
    shared_x: bool = False,
    shared_y: bool = False,
    height: int | None = None,
) -> Figure:
    """Bins from `left` to `right` as high as `count` (a count or a density), one small chart a value of `facet`.

    `fits` draws lines over them: a long frame with `fit_x`, `fit_y` in the units of `count`, `fit_name`, and `facet`.
    Bins are counted beforehand: raw values never enter a chart.
    """
    bins = frame.select(unique_columns([left, right, count, facet])).with_columns(pl.lit("bin").alias("part"))
    columns = bins.columns
    if fits is not None:
        lines = fits.select(unique_columns([fit_x, fit_y, fit_name, facet])).with_columns(pl.lit("fit").alias("part"))
        bins = pl.concat([bins, lines], how="diagonal_relaxed")
        columns = bins.columns
    base = alt.Chart() if facet is not None else alt.Chart(inline(bins, columns))
    value = alt.Y(
        field=field_name(count), type="quantitative", title=y_title or count, axis=alt.Axis(format="~s", tickCount=4)
    )
    tips = [tip(frame, c) for c in (left, right, count)]
    bar_marks = base.transform_filter("datum.part === 'bin'")
    bar_marks = bar_marks.mark_bar(opacity=0.55, binSpacing=0).encode(
        x=alt.X(
            field=field_name(left),
            type="quantitative",
            title=x_title or left,
            bin="binned",
            axis=alt.Axis(tickCount=4, format="~g"),
        ),
        x2=alt.X2(field=field_name(right)),
        y=value,
        tooltip=tips,
    )
    layers = [bar_marks]
    if fits is not None:
        over = (
            base.transform_filter("datum.part === 'fit'")
            .mark_line(strokeWidth=1.6)
            .encode(
                x=alt.X(field=field_name(fit_x), type="quantitative"),
                y=alt.Y(field=field_name(fit_y), type="quantitative"),
                color=color_channel(fits, fit_name, "fit"),
                strokeDash=alt.StrokeDash(**legend_channel(fits, fit_name, "fit")),
            )
        )
        layers.append(over)
    if facet is None:
        return make_figure(alt.layer(*layers), title, reading, source, height=height or 300)
    header = alt.Header(title=None, labelFontWeight="bold", labelOrient="top")
    inner = alt.layer(*layers).properties(width=200, height=height or 120)
    wrapped = alt.Facet(field=field_name(facet), type="nominal", sort=in_order(frame, facet), header=header)
    chart = inner.facet(facet=wrapped, columns=3, data=inline(bins, columns)).resolve_scale(
        x="shared" if shared_x else "independent", y="shared" if shared_y else "independent"
    )
    return make_figure(chart, title, reading, source, height=None)
