"""Bars, one per category or per bin of a histogram; and maps of cells, for example strength by layer."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from netopsy.charts.parts import (
    are_short,
    color_channel,
    diverging,
    field_name,
    in_order,
    inline,
    label_ink,
    legend_channel,
    make_figure,
    reference_line,
    sequential,
    tip,
    to_float,
    unique_columns,
    value_axis,
    whole_labels,
)
from netopsy.result import Figure

ROW = 22  # pixels of a row of a heat map or of a bar


def bars(
    frame: pl.DataFrame,
    category: str,
    value: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    color: str | None = None,
    stack: bool = False,
    low: str | None = None,
    high: str | None = None,
    horizontal: bool = True,
    percent: bool = False,
    category_title: str | None = None,
    value_title: str | None = None,
    color_title: str | None = None,
    reference: float | None = None,
    reference_label: str = "unedited",
    labels: bool = True,
    height: int = 300,
) -> Figure:
    """One bar a `category`, as long as `value`; side by side by `color`, or on one another with `stack`.

    `low` and `high` draw an interval on each bar. `labels` prints the values at the ends of single bars.
    """
    columns = unique_columns([category, value, color, low, high])
    side = alt.Y if horizontal else alt.X
    length = alt.X if horizontal else alt.Y
    keys: dict[str, Any] = {}
    place, size = ("y", "x") if horizontal else ("x", "y")
    keys[place] = side(
        field=field_name(category),
        type="ordinal",
        sort=in_order(frame, category),
        title=category_title or category,
        axis=whole_labels() if horizontal else alt.Axis(labelAngle=0 if are_short(frame, category) else -40),
    )
    keys[size] = length(
        field=field_name(value),
        type="quantitative",
        title=value_title or value,
        axis=value_axis(percent),
        stack="zero" if stack else None,
    )
    keys["tooltip"] = [tip(frame, c, percent=percent and c in (value, low, high)) for c in columns]
    groups = 1
    base = alt.Chart(inline(frame, columns))
    bar_marks = base.mark_bar(cornerRadiusEnd=1).encode(**keys)
    if color is not None:
        bar_marks = bar_marks.encode(color=color_channel(frame, color, color_title))
        if not stack:
            offset = alt.YOffset if horizontal else alt.XOffset
            keys[f"{place}Offset"] = offset(field=field_name(color), type="nominal", sort=in_order(frame, color))
            bar_marks = bar_marks.encode(**{f"{place}Offset": keys[f"{place}Offset"]})
            groups = frame[color].n_unique()
    layers = [bar_marks]
    if low is not None and high is not None:
        span = {**keys, size: length(field=field_name(low), type="quantitative")}
        span[f"{size}2"] = (alt.X2 if horizontal else alt.Y2)(field=field_name(high))
        layers.append(base.mark_rule(strokeWidth=1.5).encode(**span))
    elif labels and groups == 1 and not stack and frame.height <= 60:
        text = alt.Text(field=field_name(value), type="quantitative", format=".2~%" if percent else ",.4~g")
        above: dict[str, Any] = {"align": "center", "baseline": "bottom", "dy": -3}
        where: dict[str, Any] = {"align": "left", "dx": 4} if horizontal else above
        # the number of a bar below zero stands beyond zero, where nothing else is
        end = base.transform_calculate(end=f"max(0, datum[{value!r}])")
        at = keys | {size: length(field="end", type="quantitative", title=value_title or value)}
        layers.append(end.mark_text(fontSize=10, **where).encode(**at, text=text))
    if reference is not None:
        layers += reference_line(reference, reference_label, percent, axis=size)
    row = ROW if groups == 1 else max(ROW, 12 * groups + 6)
    tall = row * frame[category].n_unique() if horizontal else height
    return make_figure(alt.layer(*layers), title, reading, source, height=tall)


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
            axis=alt.Axis(tickCount=4, format=",.6~g"),  # without digits a tick at 10 would be 1e+1,
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


LABELLED_CELLS = 400  # a map of at most this many cells prints its values

MUTED = "#b4b4b4"  # of cells that say nothing, on white and on black


def heatmap(
    frame: pl.DataFrame,
    x: str,
    y: str,
    value: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    percent: bool = False,
    percent_x: bool = False,
    middle: float | None = None,
    reverse: bool = False,
    domain: tuple[float, float] | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    value_title: str | None = None,
    labels: bool | None = None,
    marks: str | None = None,
    muted: str | None = None,
) -> Figure:
    """`value` as the colour of the cell at column `x` and row `y`, for example strength by layer.

    Columns and rows stand in order of appearance, numbers too. `middle` takes a diverging scale around that value;
    else dark is low and bright is high (`reverse` turns it round). `labels` prints the values; by default in maps of
    at most 400 cells with at most 12 columns. `marks` names a column of signs that stand in their cells (null: none),
    in place of the values. `muted` names a column that is true in cells to be drawn gray: no different from `middle`.
    """
    values = frame[value].cast(pl.Float64).fill_nan(None).drop_nulls()
    lowest, highest = domain or ((to_float(values.min()), to_float(values.max())) if len(values) else (0.0, 1.0))
    columns, rows = frame[x].n_unique(), frame[y].n_unique()
    if labels is None:
        labels = marks is None and columns <= 12 and columns * rows <= LABELLED_CELLS
    scale = sequential(lowest, highest, reverse)
    if middle is not None:
        scale = diverging(middle, max(highest - middle, middle - lowest) or 1.0, reverse)
    form = ".1%" if percent else ".2f" if muted is not None else ".3~g"
    length = min(160, max(44, rows * ROW - 22))  # of the legend's bar, which stands beside the map under a title
    color = alt.Color(
        field=field_name(value),
        type="quantitative",
        scale=scale,
        legend=alt.Legend(title=value_title or value, format=".2~%" if percent else ",.3~g", gradientLength=length),
    )
    if muted is not None:
        color = alt.condition(f"datum[{muted!r}]", alt.value(MUTED), color)
    across = alt.X(
        field=field_name(x),
        type="ordinal",
        sort=in_order(frame, x),
        title=x_title or x,
        axis=alt.Axis(orient="top", labelAngle=0 if are_short(frame, x) else -40, format=".3~%", labelOverlap=True)
        if percent_x
        else alt.Axis(orient="top", labelAngle=0 if are_short(frame, x) else -40, labelOverlap=True),
    )
    down = alt.Y(field=field_name(y), type="ordinal", sort=in_order(frame, y), title=y_title or y, axis=whole_labels())
    tooltip = [tip(frame, x, percent=percent_x), tip(frame, y), tip(frame, value, percent=percent)]
    base = alt.Chart(inline(frame, unique_columns([x, y, value, marks, muted]))).encode(
        x=across, y=down, tooltip=tooltip
    )
    layers = [base.mark_rect().encode(color=color)]
    if labels:
        ink = label_ink(value, lowest, highest, middle, reverse, muted)
        text = alt.Text(field=field_name(value), type="quantitative", format=form)
        layers.append(base.mark_text(fontSize=10, tooltip=True).encode(text=text, color=ink))
    if marks is not None:
        ink = label_ink(value, lowest, highest, middle, reverse)
        signs = base.transform_filter(f"datum[{marks!r}] != null").mark_text(fontSize=12, tooltip=True)
        layers.append(signs.encode(text=alt.Text(field=field_name(marks), type="nominal"), color=ink))
    return make_figure(alt.layer(*layers), title, reading, source, height=rows * ROW)
